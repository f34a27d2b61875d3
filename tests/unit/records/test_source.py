"""Reading requests: text and CSV, what says which part is the prompt, and what can be wrong with any file."""

from __future__ import annotations

import contextlib
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import InputError, UsageError
from clusterlm.records.request import Request
from clusterlm.records.source import open_source
from tests.unit.records.sources import errors, prompts, refusal, written

# ----------------------------------------------------------------------------------------------------------- text files


def test_a_text_file_has_a_prompt_per_line_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "in.txt", "one\n\n  \n two \u2028 three\nlast")
    assert list(open_source(path)) == [
        Request(0, "0", prompt="one"),
        Request(1, "1", prompt=" two \u2028 three"),
        Request(2, "2", prompt="last"),
    ]


def test_line_ends_of_windows_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    assert prompts(open_source(written(tmp_path, "in.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"))) == ["one", "two"]
    assert prompts(open_source(written(tmp_path, "in.csv", b"\xef\xbb\xbfprompt,x\r\na,1\r\n"))) == ["a"]
    assert prompts(open_source(written(tmp_path, "in.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n'))) == ["a"]
    assert prompts(open_source(written(tmp_path, "in.json", b'\xef\xbb\xbf[\r\n{"prompt": "a"}\r\n]\r\n'))) == ["a"]


def test_a_whole_text_file_can_be_one_prompt_without_its_last_line_end(tmp_path: Path) -> None:
    path = written(tmp_path, "in.TXT", "one\r\n\r\ntwo\r\n")
    assert prompts(open_source(path, whole_file=True)) == ["one\n\ntwo"]


def test_a_template_works_on_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "in.txt", "cat\ndog\n")
    assert prompts(open_source(path, template="{{x}} {text}?")) == ["{x} cat?", "{x} dog?"]
    assert prompts(open_source(path, template="{prompt}{prompt}")) == ["catcat", "dogdog"]


# ------------------------------------------------------------------------------------------------------------------ csv


def test_csv_fields_keep_quotes_line_breaks_and_all_scripts(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", 'id,prompt\na,"say ""hi"", then\nstop"\nb,Grüße 你好 🎉\n')
    assert list(open_source(path)) == [
        Request(0, "a", prompt='say "hi", then\nstop'),
        Request(1, "b", prompt="Grüße 你好 🎉"),
    ]


def test_tsv_is_cut_at_tabs_only(tmp_path: Path) -> None:
    assert prompts(open_source(written(tmp_path, "in.tsv", "text\tn\na, b\t1\n"))) == ["a, b"]


def test_a_csv_field_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", f"prompt\n{'x' * 200_000}\n")
    assert [len(prompt or "") for prompt in prompts(open_source(path))] == [200_000]


def test_a_csv_row_of_another_width_is_bad_and_the_others_go_on(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, "in.csv", "id,prompt\na,one\nb\nc,three,more\nd,four\n"))
    assert errors(source) == [
        None,
        "the row has 1 fields, the header has 2",
        "the row has 3 fields, the header has 2",
        None,
    ]
    assert [request.id for request in source] == ["a", "b", "c", "d"]


def test_the_csv_column_named_prompt_or_text_is_taken_when_there_is_exactly_one(tmp_path: Path) -> None:
    assert prompts(open_source(written(tmp_path, "one.csv", "n,text\n1,a\n"))) == ["a"]
    both = refusal(UsageError, written(tmp_path, "both.csv", "prompt,text\na,b\n"))
    assert "prompt and text could each be the prompt; the columns are: prompt, text" in both
    none = refusal(UsageError, written(tmp_path, "none.csv", "question,answer\na,b\n"))
    assert "the columns are: question, answer" in none


def test_a_quote_that_is_never_closed_does_not_swallow_the_rows_after_it(tmp_path: Path) -> None:
    assert "in.csv:3: not valid CSV" in refusal(InputError, written(tmp_path, "in.csv", 'prompt\na\n"b\nc\nd\n'))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    said = refusal(InputError, written(tmp_path, "in.csv", "prompt,prompt\na,b\n"))
    assert "two columns named 'prompt'" in said


# -------------------------------------------------------------------------------------------------- column and template


def test_a_column_can_be_named_and_the_nearest_is_offered(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", "question,answer\nwhy?,because\n")
    assert prompts(open_source(path, column="question")) == ["why?"]
    assert "did you mean 'question'?" in refusal(UsageError, path, column="questoin")


def test_a_template_fills_in_columns_and_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "in.jsonl", '{"q": "why", "n": 3, "a.b": true}\n')
    assert prompts(open_source(path, template="{n}. {q}? {a.b} {{}}")) == ["3. why? True {}"]


def test_an_unknown_template_field_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", "question,n\nwhy?,1\n")
    assert "did you mean 'question'?" in refusal(UsageError, path, template="Q: {questio}")


@pytest.mark.parametrize(
    "template",
    ["no field", "{}", "{prompt", "prompt}", "{prompt!r}", "{prompt:>9}", "{prompt.__class__}", "{prompt[0]}"],
)
def test_a_template_holds_plain_column_names_and_nothing_that_could_run(tmp_path: Path, template: str) -> None:
    refusal(UsageError, written(tmp_path, "in.jsonl", '{"prompt": "a"}\n'), template=template)


def test_a_field_that_a_template_cannot_print_makes_the_row_bad(tmp_path: Path) -> None:
    lines = '{"a": "x"}\n{"a": null}\n{"a": ["x"]}\n{"b": 1}\n'
    source = open_source(written(tmp_path, "in.jsonl", lines), template="<{a}>")
    assert errors(source) == [
        None,
        "a is null; text or a number is wanted",
        "a is a list; text or a number is wanted",
        "there is no 'a'",
    ]


def test_column_and_template_together_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", "prompt\na\n")
    said = refusal(UsageError, path, column="prompt", template="{prompt}")
    assert "'prompt'" in said and "'{prompt}'" in said


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in.txt", {"column": "text"}),
        ("in.csv", {"whole_file": True}),
        ("in.csv", {"split": "train"}),
        ("in.txt", {"split": "train"}),
    ],
)
def test_an_option_that_the_input_has_no_use_for_is_refused(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    said = refusal(UsageError, written(tmp_path, name, "prompt\na\n"), **options)
    assert f"{next(iter(options))} does not apply" in said


# ------------------------------------------------------------------------------------------------------- the whole file


def test_a_missing_file_offers_the_nearest_that_exists(tmp_path: Path) -> None:
    written(tmp_path, "prompts.jsonl", "")
    assert "did you mean" in refusal(InputError, tmp_path / "promts.jsonl")
    assert "prompts.jsonl" in refusal(InputError, tmp_path / "promts.jsonl")
    assert "no-folder does not exist either" in refusal(InputError, tmp_path / "no-folder" / "in.txt")


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.json", "in.csv", "in.tsv"])
def test_a_file_without_a_request_is_refused(tmp_path: Path, name: str) -> None:
    assert "there is no request in it" in refusal(InputError, written(tmp_path, name, ""))
    assert "there is no request in it" in refusal(InputError, written(tmp_path, name, "\n\r\n"))


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    assert "there is no request in it" in refusal(InputError, written(tmp_path, "in.csv", "prompt\n"))


@pytest.mark.parametrize("name", ["in.xlsx", "in", "in.jsonl.gz"])
def test_an_unknown_format_is_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    assert ".txt, .jsonl, .ndjson, .json, .csv, .tsv, .parquet" in refusal(InputError, written(tmp_path, name, "a"))


def test_a_pipe_is_refused_because_it_can_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.txt")
    assert "not a regular file" in refusal(InputError, tmp_path / "in.txt")


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Root may read everything, so the test is somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_without_the_right_to_read_it_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "in.txt", "a\n")
    path.chmod(0)
    with another_user():
        assert "Permission denied" in refusal(InputError, path)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("in.txt", b"ok\n"),
        ("in.jsonl", b'{"prompt": "ok"}\n'),
        ("in.json", b'[{"prompt": "ok"},\n'),
        ("in.csv", b"prompt\n"),
    ],
)
def test_bytes_that_are_not_utf8_are_told_with_line_and_offset(tmp_path: Path, name: str, start: bytes) -> None:
    said = refusal(InputError, written(tmp_path, name, start + b"caf\xe9\n"))
    assert f"{name}:2: the byte 0xe9 at byte offset {len(start) + 3} is not UTF-8" in said
    assert "iconv -f latin1 -t utf8" in said


def test_utf16_is_recognised(tmp_path: Path) -> None:
    said = refusal(InputError, written(tmp_path, "in.txt", "a\n".encode("utf-16")))
    assert "in.txt:1: the byte 0xff at byte offset 0" in said and "iconv -f utf16" in said


def test_two_rows_of_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    path = written(tmp_path, "in.jsonl", '{"id": "x", "prompt": "a"}\n\n{"prompt": "b"}\n{"id": "x", "prompt": "c"}\n')
    said = refusal(InputError, path)
    assert f"the id 'x' is there twice: {path}:1 and {path}:4" in said
    mixed = written(tmp_path, "mixed.jsonl", '{"id": "1", "prompt": "a"}\n{"prompt": "b"}\n')
    assert "the id '1' is there twice" in refusal(InputError, mixed)


# ---------------------------------------------------------------------------------------------------------- the summary


def test_the_check_counts_requests_and_shows_the_first_bad_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", "prompt,n\na,1\n,2\nb,3\n,4\n,5\n,6\n")
    summary = open_source(path).check()
    assert (summary.count, summary.bad_rows) == (6, 4)
    assert summary.first_bad_rows == tuple(f"{path}:{line}: prompt is empty" for line in (3, 5, 6))


def test_the_digest_tells_inputs_apart_but_not_their_names_or_formats(tmp_path: Path) -> None:
    digests = [
        open_source(written(tmp_path, name, content)).check().digest
        for name, content in [
            ("a.txt", "one\ntwo\n"),
            ("b.txt", "one\n\ntwo"),
            ("c.jsonl", '{"prompt": "one"}\n{"prompt": "two"}\n'),
            ("d.txt", "two\none\n"),
            ("e.txt", "one\n"),
        ]
    ]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_a_source_can_be_read_again_and_again(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, "in.txt", "a\nb\n"))
    first, second = iter(source), iter(source)
    assert next(first) == next(second)
    assert list(source) == list(source)


@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    row = {"prompt": "x" * 1000}
    with open(tmp_path / name, "w") as file:  # 8 MB
        file.write({"in.json": "[", "in.csv": "prompt\n", "in.jsonl": ""}[name])
        for number in range(8000):
            comma = "," if name == "in.json" and number else ""
            file.write(f"{row['prompt']}\n" if name == "in.csv" else f"{comma}{json.dumps(row)}\n")
        file.write("]" if name == "in.json" else "")
    source = open_source(tmp_path / name)
    tracemalloc.start()
    try:
        assert sum(1 for _ in source) == 8000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # a JSON list holds some chunks of a megabyte
    finally:
        tracemalloc.stop()
