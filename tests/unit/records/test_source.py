"""Reading requests: every format, what says which part is the prompt, and everything that can be wrong."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import InputError, MissingPackage, UsageError
from clusterlm.records.request import Request
from clusterlm.records.source import Source, open_source


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(source: Source) -> list[str | None]:
    return [request.prompt for request in source]


def errors(source: Source) -> list[str | None]:
    return [request.error for request in source]


def refusal(kind: type[InputError | UsageError], path: Path, **options: Any) -> str:
    """What open_source, or else the check of all rows, says against the file."""
    with pytest.raises(kind) as caught:
        open_source(path, **options).check()
    assert caught.value.hint, "every refusal says what to do"
    return str(caught.value)


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


# ----------------------------------------------------------------------------------------------------------------- json


def test_json_lines_hold_prompts_or_conversations(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
    rows = [{"prompt": "a", "x": float("nan")}, {"messages": turns, "prompt": None}]
    source = open_source(written(tmp_path, "in.ndjson", "\n\n".join(map(json.dumps, rows))))
    assert list(source) == [Request(0, "0", prompt="a"), Request(1, "1", messages=turns)]
    assert source.kind == "plain"


def test_ids_come_from_the_row_and_else_count_from_zero(tmp_path: Path) -> None:
    rows = '{"id": "x", "prompt": "a"}\n{"custom_id": 7, "prompt": "a"}\n{"id": null, "prompt": "a"}\n{"prompt": ""}\n'
    assert [request.id for request in open_source(written(tmp_path, "in.jsonl", rows))] == ["x", "7", "2", "3"]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ('{"prompt": null}', "prompt is null"),
        ('{"prompt": ""}', "prompt is empty"),
        ('{"prompt": 5}', "prompt is a number; text is wanted"),
        ('{"prompt": "\\ud800"}', "prompt holds half a surrogate pair, which is no character"),
        ('{"text": "a"}', "there is neither prompt nor messages"),
        ('{"prompt": "a", "messages": []}', "there are both prompt and messages; one is wanted"),
        ('{"messages": null}', "messages is null"),
        ('{"messages": "a"}', "messages is text; a list of messages is wanted"),
        ('{"messages": []}', "messages is empty"),
        ('{"messages": ["a"]}', "messages[0] is text; an object with role and content is wanted"),
        ('{"messages": [{"content": "a"}]}', "messages[0] has no role"),
        ('{"messages": [{"role": "", "content": "a"}]}', "messages[0].role is empty"),
        ('{"messages": [{"role": "user"}]}', "messages[0] has no content"),
        ('{"messages": [{"role": "user", "content": [1]}]}', "messages[0].content is a list; text is wanted"),
        (
            '{"messages": [{"role": "user", "content": "\\udfff"}]}',
            "messages holds half a surrogate pair, which is no character",
        ),
        ('["a"]', "the row is a list; an object is wanted"),
        ("true", "the row is true or false; an object is wanted"),
        (
            '{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a"}}',
            "this is an OpenAI batch line, but the file's first row is none",
        ),
    ],
)
def test_a_row_that_cannot_be_used_becomes_an_error_and_stops_nothing(tmp_path: Path, row: str, error: str) -> None:
    source = open_source(written(tmp_path, "in.jsonl", f'{{"prompt": "a"}}\n{row}\n{{"prompt": "z"}}\n'))
    assert errors(source) == [None, error, None]
    assert prompts(source) == ["a", None, "z"]
    json.dumps([request.id for request in source], ensure_ascii=False).encode()


def test_half_a_surrogate_pair_in_an_id_can_still_be_written(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, "in.jsonl", '{"id": "\\ud800", "prompt": "a"}\n'))
    assert [request.id for request in source] == ["\\ud800"]


def test_objects_without_prompt_and_messages_need_a_column_or_a_template(tmp_path: Path) -> None:
    path = written(tmp_path, "in.jsonl", '{"promt": "a", "n": 1}\n{"n": 2}\n')
    said = refusal(InputError, path)
    assert "it has: promt, n" in said and "--column promt" in said
    assert errors(open_source(path, column="promt")) == [None, "there is no 'promt'"]


def test_a_column_may_hold_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    path = written(tmp_path, "in.jsonl", json.dumps({"chat": turns}))
    assert [request.messages for request in open_source(path, column="chat")] == [turns]


def test_broken_json_is_told_with_its_line(tmp_path: Path) -> None:
    said = refusal(InputError, written(tmp_path, "in.jsonl", '{"prompt": "a"}\n\n{"prompt": \n'))
    assert "in.jsonl:3: not valid JSON" in said
    deep = refusal(InputError, written(tmp_path, "deep.jsonl", "[" * 100_000))
    assert "deep.jsonl:1" in deep and "nested too deeply" in deep
    long = refusal(InputError, written(tmp_path, "long.jsonl", f'{{"prompt": {"1" * 5000}}}'))
    assert "long.jsonl:1" in long


def test_a_json_list_in_a_file_of_lines_is_refused_with_the_right_name(tmp_path: Path) -> None:
    assert "an object is wanted" in refusal(InputError, written(tmp_path, "in.jsonl", '[{"prompt": "a"}]\n'))
    assert "named .json" in refusal(InputError, written(tmp_path, "pretty.jsonl", '[\n{"prompt": "a"}\n]\n'))


# ------------------------------------------------------------------------------------------------------------ json list


def test_a_json_list_is_read_object_by_object(tmp_path: Path) -> None:
    path = written(tmp_path, "in.json", '\n [ {"prompt":"a]"},\n{"prompt":"b\\"}", "x": [{}]}\n,5 ]\n')
    assert prompts(open_source(path)) == ["a]", 'b"}', None]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "a"}', "in.json:1: not a JSON list: a list is wanted"),
        ('[{"prompt": "a"},\n]', "in.json:2: not a JSON list: a comma before the end"),
        ('[{"prompt": "a"}\n{"prompt": "b"}]', "in.json:2: not a JSON list: a comma or the end"),
        ('[{"prompt": "a"},\n\n{"prompt" "b"}]', "in.json:3: not a JSON list: Expecting ':' delimiter"),
        ('[{"prompt": "a"}', "in.json:1: not a JSON list: a comma or the end"),
        ('[{"prompt": "a"},\n', "in.json:2: not a JSON list: Expecting value"),
        ('[{"prompt": "a"}]\n]', "in.json:2: not a JSON list: text after the end"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "there is no request in it"),
        (" \n", "there is no request in it"),
    ],
)
def test_a_broken_json_list_is_told_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    assert said in refusal(InputError, written(tmp_path, "in.json", content))


def test_a_json_list_may_be_cut_anywhere_by_the_chunks_it_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[dict[str, Any]] = [
        {"prompt": 'é€🎉 \\ " ' * 3},
        {"prompt": "b", "n": [12345, -1.5e10, None]},
        {"prompt": "c" * 50},
    ]
    path = written(tmp_path, "in.json", json.dumps([*values, 12345678], indent=1, ensure_ascii=False))
    for chunk_bytes in range(1, 40):
        monkeypatch.setattr("clusterlm.records.text.CHUNK_BYTES", chunk_bytes)
        source = open_source(path)
        assert prompts(source) == [*(value["prompt"] for value in values), None]
        assert source.check().first_bad_rows == (f"{path}:16: the row is a number; an object is wanted",)


# ------------------------------------------------------------------------------------------------------- openai batches


def batch_row(url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "gpt", **body}}


def batch_request(folder: Path, row: dict[str, Any]) -> Request:
    first = {**batch_row(prompt="first"), "custom_id": "first"}
    source = open_source(written(folder, "in.jsonl", f"{json.dumps(first)}\n{json.dumps(row)}\n"))
    assert source.kind == "openai"
    return list(source)[1]


def test_openai_batch_lines_become_requests_with_their_own_options(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    settings = {"temperature": 0.5, "top_p": 1, "top_k": 5, "repetition_penalty": 1.1, "seed": 3, "n": 2}
    chat = batch_row(
        "/v1/chat/completions", messages=turns, max_tokens=9, stop="END", stream=False, tools=None, **settings
    )
    assert batch_request(tmp_path, chat) == Request(
        1, "a", messages=turns, options={**settings, "max_new_tokens": 9, "stop": ["END"]}
    )
    completion = batch_row(prompt="Hi", max_completion_tokens=9, stop=["a", "b"])
    assert batch_request(tmp_path, completion) == Request(
        1, "a", prompt="Hi", options={"max_new_tokens": 9, "stop": ["a", "b"]}
    )


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (batch_row(prompt="a", logprobs=1, tools=[]), "not supported in body: 'logprobs', 'tools'"),
        (batch_row(prompt="a", messages=[]), "not supported in body: 'messages'"),
        (batch_row(prompt="a", stream=True), "not supported in body: 'stream' other than false"),
        (batch_row("/v1/embeddings", prompt="a"), "url is '/v1/embeddings'; /v1/chat/completions or /v1/completions"),
        ({**batch_row(prompt="a"), "method": "GET"}, "method is 'GET'; 'POST' is wanted"),
        ({**batch_row(), "body": "a"}, "body is text; an object is wanted"),
        ({"custom_id": "a", "url": "/v1/completions"}, "body is null; an object is wanted"),
        (batch_row(), "body.prompt is null"),
        (batch_row(prompt=["a", "b"]), "body.prompt is a list; text is wanted"),
        (batch_row("/v1/chat/completions"), "body.messages is null; a list of messages is wanted"),
        (batch_row(prompt="a", max_tokens=0), "body.max_tokens is 0; a whole number from 1 is wanted"),
        (
            batch_row(prompt="a", max_tokens=1, max_completion_tokens=2),
            "max_tokens and body.max_completion_tokens differ",
        ),
        (batch_row(prompt="a", temperature="hot"), "body.temperature is 'hot'; a number from 0 is wanted"),
        (batch_row(prompt="a", temperature=True), "body.temperature is True; a number from 0 is wanted"),
        (batch_row(prompt="a", temperature=float("nan")), "body.temperature is nan; a number from 0 is wanted"),
        (batch_row(prompt="a", seed=2**70), "a whole number of 64 bits is wanted"),
        (batch_row(prompt="a", stop=["a", 5]), "body.stop is a number; text is wanted"),
        ({"prompt": "a"}, "this is no OpenAI batch line, but the file's first row is one"),
    ],
)
def test_what_a_batch_line_asks_for_and_cannot_get_makes_that_row_bad(
    tmp_path: Path, row: dict[str, Any], error: str
) -> None:
    assert error in (batch_request(tmp_path, row).error or "")


def test_web_pages_with_url_and_body_are_no_batch_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "in.jsonl", '{"url": "https://x", "body": "text of the page"}\n')
    source = open_source(path, column="body")
    assert (source.kind, prompts(source)) == ("plain", ["text of the page"])


# ---------------------------------------------------------------------------------------------------- parquet, datasets


def test_parquet_rows_become_requests_and_other_columns_are_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": [10, 11, 12], "text": ["a", None, ""], "image": [b"\xff"] * 3})
    parquet.write_table(table, tmp_path / "in.parquet")
    assert list(open_source(tmp_path / "in.parquet")) == [
        Request(0, "10", prompt="a"),
        Request(1, "11", error="text is null"),
        Request(2, "12", error="text is empty"),
    ]
    assert errors(open_source(tmp_path / "in.parquet", column="image"))[0] == "image is of type bytes; text is wanted"
    assert "did you mean 'image'?" in refusal(UsageError, tmp_path / "in.parquet", column="imag")


def test_conversations_in_a_table_lose_the_keys_that_are_null(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{"role": "user", "content": "Hi", "name": None}, {"role": "user", "content": "Ho", "name": "Jo"}]
    parquet.write_table(pyarrow.table({"messages": [turns]}), tmp_path / "in.parquet")
    assert "--column messages" in refusal(UsageError, tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet", column="messages")
    assert [request.messages for request in source] == [[{"role": "user", "content": "Hi"}, turns[1]]]


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert "not a Parquet file" in refusal(InputError, written(tmp_path, "in.parquet", b"PAR1 nonsense"))
    assert "not a Parquet file" in refusal(InputError, written(tmp_path, "empty.parquet", b""))


def save_stream(folder: Path, name: str, texts: list[str]) -> None:
    """A file as save_to_disk writes it."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": texts})
    with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
        stream.write_table(table)


def save_dataset(folder: Path, *files: list[str]) -> Path:
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(files):05}.arrow" for number in range(len(files))]
    for name, texts in zip(names, files, strict=True):
        save_stream(folder, name, texts)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_dataset_is_read_file_after_file(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "data", ["a", "b"], ["c"])
    assert list(open_source(folder)) == [
        Request(0, "0", prompt="a"),
        Request(1, "1", prompt="b"),
        Request(2, "2", prompt="c"),
    ]
    assert "there is no split 'train'" in refusal(UsageError, folder, split="train")
    (folder / "data-00001-of-00002.arrow").write_bytes(b"\xff\xff\xff\xff\x10\x00")
    assert "data-00001-of-00002.arrow: not an Arrow stream" in refusal(InputError, folder)
    (folder / "data-00001-of-00002.arrow").unlink()
    assert "No such file" in refusal(InputError, folder)


def test_a_dataset_of_splits_needs_one_unless_there_is_only_one(tmp_path: Path) -> None:
    save_dataset(tmp_path / "d" / "train", ["a"])
    save_dataset(tmp_path / "d" / "test", ["b"])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert prompts(open_source(tmp_path / "d", split="test")) == ["b"]
    assert "2 splits: train, test" in refusal(UsageError, tmp_path / "d")
    assert "did you mean 'train'?" in refusal(UsageError, tmp_path / "d", split="trian")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert prompts(open_source(tmp_path / "d")) == ["a"]


def test_a_dataset_that_the_datasets_package_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="optional: the package datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"id": ["x", "y", "z"], "prompt": ["a", "b", "c"]})
    rows.select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    assert [(request.id, request.prompt) for request in open_source(tmp_path / "saved")] == [("z", "c"), ("x", "a")]


def test_a_folder_of_data_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    written(tmp_path, "b.jsonl", '{"prompt": "b"}\n')
    written(tmp_path, "a.jsonl", '{"prompt": "a"}\n')
    written(tmp_path, "README.md", "# data\n")
    assert prompts(open_source(tmp_path)) == ["a", "b"]
    assert "split" in refusal(UsageError, tmp_path, split="train")
    written(tmp_path, "c.csv", "prompt\nc\n")
    assert "several formats: .csv, .jsonl" in refusal(InputError, tmp_path)


def test_a_file_of_a_folder_without_the_prompts_column_is_told(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "prompt\na\n")
    written(tmp_path, "b.csv", "promt\nb\n")
    assert "b.csv: there is no column 'prompt', but a.csv has it" in refusal(InputError, tmp_path)


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    assert "no .parquet, .jsonl, .csv file is in it" in refusal(InputError, tmp_path)


def test_without_pyarrow_parquet_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackage, match=r"pip install 'clusterlm\[run\]'"):
        open_source(written(tmp_path, "in.parquet", b""))


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
