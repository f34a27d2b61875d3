"""Writing answers: every format, in the order of the input, the same bytes whatever the order of the log."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import RunError, UsageError
from clusterlm.records.log import ResultLog
from clusterlm.records.output import OutputSummary, check_output_path, write_output
from clusterlm.records.request import Choice, Result
from clusterlm.records.source import Source, open_source

CHAT = [{"role": "user", "content": "Hé?"}]
CHAT_TEXT = '[{"role": "user", "content": "Hé?"}]'
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one"},
    {"id": "b", "messages": CHAT},
    {"id": "c", "prompt": None},
    {"id": "d", "prompt": "four"},
]
ANSWERS = {
    "a": (Choice('say "1",\nthen\r🎉', "stop", 3, 11),),
    "b": (Choice("B", "length", 4, 12),),
    "d": (Choice("D", "stop", 5, 13),),
}


def source_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return open_source(path)


def answered(
    folder: Path, source: Source, answers: Mapping[str, tuple[Choice, ...]], *, reverse: bool = False
) -> ResultLog:
    """A log in the order of the input or against it; who has no answer in `answers` has failed."""
    results = []
    for request in source:
        choices = answers.get(request.id, ())
        error = None if choices else request.error or "out of memory"
        tokens = 0 if request.error else 2
        results.append(Result(request.index, request.id, request.payload_hash, tokens, choices, error))
    log = ResultLog(folder / f"log-{reverse}")
    log.append(reversed(results) if reverse else results)
    return log


def written(folder: Path, name: str, *, answers: Mapping[str, tuple[Choice, ...]] = ANSWERS, **options: Any) -> Path:
    source = source_of(folder, ROWS)
    with answered(folder, source, answers) as log:
        write_output(folder / name, source, log, model_name="tiny", **options)
    return folder / name


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def table(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True))


# ---------------------------------------------------------------------------------------------------------- plain forms


def test_json_lines_hold_one_answer_per_request_in_the_order_of_the_input(tmp_path: Path) -> None:
    assert written(tmp_path, "out.jsonl").read_text().splitlines() == [
        '{"id": "a", "prompt": "one", "text": "say \\"1\\",\\nthen\\r🎉", "finish_reason": "stop", "prompt_tokens": 2, '
        '"completion_tokens": 3, "seed": 11, "error": null}',
        '{"id": "b", "messages": [{"role": "user", "content": "Hé?"}], "text": "B", "finish_reason": "length", '
        '"prompt_tokens": 2, "completion_tokens": 4, "seed": 12, "error": null}',
        '{"id": "c", "prompt": null, "text": null, "finish_reason": null, "prompt_tokens": 0, '
        '"completion_tokens": null, "seed": null, "error": "prompt is null"}',
        '{"id": "d", "prompt": "four", "text": "D", "finish_reason": "stop", "prompt_tokens": 2, '
        '"completion_tokens": 5, "seed": 13, "error": null}',
    ]


HEADER = ["id", "prompt", "text", "finish_reason", "prompt_tokens", "completion_tokens", "seed", "error"]


@pytest.mark.parametrize("name", ["out.csv", "out.TSV"])
def test_tables_hold_a_row_per_answer_and_every_character_of_it(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    path = path.rename(path.with_suffix(path.suffix.lower()))
    assert table(path) == [
        HEADER,
        ["a", "one", 'say "1",\nthen\r🎉', "stop", "2", "3", "11", ""],
        ["b", CHAT_TEXT, "B", "length", "2", "4", "12", ""],
        ["c", "", "", "", "0", "", "", "prompt is null"],
        ["d", "four", "D", "stop", "2", "5", "13", ""],
    ]


def test_parquet_has_types_and_nulls(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    read = parquet.read_table(written(tmp_path, "out.parquet"))
    types = [pyarrow.string()] * 4 + [pyarrow.int64()] * 3 + [pyarrow.string()]
    assert read.schema == pyarrow.schema(list(zip(HEADER, types, strict=True)))
    assert [tuple(row.values()) for row in read.to_pylist()] == [
        ("a", "one", 'say "1",\nthen\r🎉', "stop", 2, 3, 11, None),
        ("b", CHAT_TEXT, "B", "length", 2, 4, 12, None),
        ("c", None, None, None, 0, None, None, "prompt is null"),
        ("d", "four", "D", "stop", 2, 5, 13, None),
    ]


def test_prompts_can_be_written_as_their_sha256(tmp_path: Path) -> None:
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in ("one", CHAT_TEXT, "four")]
    # sha256sum of the three bytes "one"
    assert hashes[0] == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    rows = lines(written(tmp_path, "out.jsonl", prompt_as="hash"))
    assert [row["prompt_sha256"] for row in rows] == [hashes[0], hashes[1], None, hashes[2]]
    assert not any("prompt" in row or "messages" in row for row in rows)


def test_prompts_can_be_written_as_their_sha256_in_tables(tmp_path: Path) -> None:
    assert [row[:2] for row in table(written(tmp_path, "out.csv", prompt_as="hash"))][:2] == [
        ["id", "prompt_sha256"],
        ["a", "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"],
    ]


# --------------------------------------------------------------------------------------------------------- more choices

TWO = {**ANSWERS, "d": (Choice("D1", "stop", 5, 13), Choice("D2", "length", 6, 14))}


def test_several_choices_stand_in_a_list_of_their_json_line(tmp_path: Path) -> None:
    rows = lines(written(tmp_path, "out.jsonl", answers=TWO))
    assert rows[0]["text"].startswith("say")
    assert rows[3] == {
        "id": "d",
        "prompt": "four",
        "choices": [
            {"text": "D1", "finish_reason": "stop", "completion_tokens": 5, "seed": 13},
            {"text": "D2", "finish_reason": "length", "completion_tokens": 6, "seed": 14},
        ],
        "prompt_tokens": 2,
        "error": None,
    }


def test_several_choices_are_numbered_rows_of_a_table(tmp_path: Path) -> None:
    assert [row[:4] for row in table(written(tmp_path, "out.csv", answers=TWO))] == [
        ["id", "prompt", "sample", "text"],
        ["a", "one", "0", 'say "1",\nthen\r🎉'],
        ["b", CHAT_TEXT, "0", "B"],
        ["c", "", "", ""],
        ["d", "four", "0", "D1"],
        ["d", "four", "1", "D2"],
    ]


# ---------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.tsv", "out.parquet"])
def test_pairs_hold_prompt_and_response_alone_and_leave_failures_out(tmp_path: Path, name: str) -> None:
    source = source_of(tmp_path, ROWS)
    with answered(tmp_path, source, TWO) as log:
        summary = write_output(tmp_path / name, source, log, model_name="tiny", prompt_response=True)
    assert summary == OutputSummary(requests=4, failed=1, rows=4)
    read: list[dict[str, Any]]
    if name == "out.jsonl":
        read = lines(tmp_path / name)
    elif name == "out.parquet":
        read = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / name).to_pylist()
    else:
        header, *rest = table(tmp_path / name)
        read = [dict(zip(header, row, strict=True)) for row in rest]
    assert read == [
        {"prompt": "one", "response": 'say "1",\nthen\r🎉'},
        {"prompt": CHAT_TEXT, "response": "B"},
        {"prompt": "four", "response": "D1"},
        {"prompt": "four", "response": "D2"},
    ]


def test_pairs_of_nothing_but_failures_are_an_empty_table(tmp_path: Path) -> None:
    assert table(written(tmp_path, "out.csv", answers={}, prompt_response=True)) == [["prompt", "response"]]
    (tmp_path / "log-False").unlink()
    path = written(tmp_path, "out.parquet", answers={}, prompt_response=True)
    read = pytest.importorskip("pyarrow.parquet").read_table(path)
    assert (read.column_names, read.num_rows) == (["prompt", "response"], 0)


def test_pairs_with_hashed_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prompts as their hash"):
        written(tmp_path, "out.csv", prompt_response=True, prompt_as="hash")


# --------------------------------------------------------------------------------------------------------------- openai


def test_openai_batch_lines_are_answered_in_kind(tmp_path: Path) -> None:
    chat = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": CHAT, "n": 2}}
    text = {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "one"}}
    bad = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {}}
    failed = {"custom_id": "d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "four"}}
    source = source_of(tmp_path, [chat, text, bad, failed])
    answers = {"a": (Choice("A1", "stop", 3, 1), Choice("A2", "length", 4, 2)), "b": (Choice("B", "stop", 5, 3),)}
    with answered(tmp_path, source, answers) as log:
        write_output(tmp_path / "out.jsonl", source, log, model_name="tiny")
    hashes = [request.payload_hash for request in source]
    first, second, third, fourth = lines(tmp_path / "out.jsonl")
    assert first == {
        "id": f"batch_req_{hashes[0]}",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": f"req_{hashes[0]}",
            "body": {
                "id": f"chatcmpl-{hashes[0]}",
                "object": "chat.completion",
                "created": 0,
                "model": "tiny",
                "choices": [
                    {
                        "index": index,
                        "message": {"role": "assistant", "content": content},
                        "logprobs": None,
                        "finish_reason": reason,
                    }
                    for index, content, reason in [(0, "A1", "stop"), (1, "A2", "length")]
                ],
                "usage": {"prompt_tokens": 2, "completion_tokens": 7, "total_tokens": 9},
            },
        },
        "error": None,
    }
    assert second["response"]["body"]["object"] == "text_completion"
    assert second["response"]["body"]["choices"] == [
        {"index": 0, "text": "B", "logprobs": None, "finish_reason": "stop"}
    ]
    assert third["response"] is None
    assert third["error"]["code"] == "invalid_request"
    assert third["error"]["message"].startswith("url is '/v1/embeddings'")
    assert fourth["error"] == {"code": "generation_failed", "message": "out of memory"}


# ----------------------------------------------------------------------------------------------------- the whole output


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.tsv", "out.parquet"])
def test_the_order_in_which_results_came_does_not_change_a_byte(tmp_path: Path, name: str) -> None:
    source = source_of(tmp_path, ROWS)
    outputs = []
    for reverse in (False, True):
        with answered(tmp_path, source, TWO, reverse=reverse) as log:
            write_output(tmp_path / name, source, log, model_name="tiny")
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]


def test_a_large_parquet_file_has_row_groups(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "in.txt").write_text("".join(f"{number}\n" for number in range(5000)))
    source = open_source(tmp_path / "in.txt")
    with answered(
        tmp_path, source, {str(number): (Choice(f"t{number}", "stop", 1, 0),) for number in range(5000)}
    ) as log:
        write_output(tmp_path / "out.parquet", source, log, model_name="tiny")
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4096, 904]
    assert file.read().column("text").to_pylist() == [f"t{number}" for number in range(5000)]


def test_our_own_csv_can_be_the_next_input(tmp_path: Path) -> None:
    path = written(tmp_path, "out.csv")
    assert [(request.id, request.prompt) for request in open_source(path, column="text")] == [
        ("a", 'say "1",\nthen\r🎉'),
        ("b", "B"),
        ("c", None),
        ("d", "D"),
    ]


def test_without_a_path_json_lines_go_to_the_stream(tmp_path: Path) -> None:
    source = source_of(tmp_path, ROWS)
    stream = io.StringIO()
    with answered(tmp_path, source, ANSWERS) as log:
        summary = write_output(None, source, log, model_name="tiny", stream=stream)
        write_output(tmp_path / "out.jsonl", source, log, model_name="tiny")
    assert summary == OutputSummary(requests=4, failed=1, rows=4)
    assert stream.getvalue() == (tmp_path / "out.jsonl").read_bytes().decode()


def test_a_missing_result_leaves_the_old_output_as_it_was(tmp_path: Path) -> None:
    source = source_of(tmp_path, ROWS)
    (tmp_path / "out.csv").write_text("old")
    with ResultLog(tmp_path / "log") as log, pytest.raises(RunError, match="index 0 has no result yet"):
        write_output(tmp_path / "out.csv", source, log, model_name="tiny")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "log", "out.csv"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_a_full_disk_leaves_the_old_output_and_nothing_beside_it(
    tmp_path: Path, files_no_longer_than: Callable[[int], AbstractContextManager[None]], name: str
) -> None:
    source = source_of(tmp_path, ROWS)
    (tmp_path / name).write_text("old")
    with (
        answered(tmp_path, source, ANSWERS) as log,
        files_no_longer_than(100),
        pytest.raises(RunError, match="no space left") as caught,
    ):
        write_output(tmp_path / name, source, log, model_name="tiny")
    assert caught.value.where == str(tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.jsonl", "log-False", name])


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_an_input_that_was_changed_after_it_was_answered_is_told(tmp_path: Path, name: str) -> None:
    with answered(tmp_path, source_of(tmp_path, ROWS), ANSWERS) as log:
        changed = source_of(tmp_path, [*ROWS[:3], {"id": "d", "prompt": "five"}])
        with pytest.raises(RunError, match="'d' was changed after it was answered"):
            write_output(tmp_path / name, changed, log, model_name="tiny")
        shorter = source_of(tmp_path, ROWS[:3])
        with pytest.raises(RunError, match="4 results, but only 3 requests"):
            write_output(tmp_path / name, shorter, log, model_name="tiny")
    assert not (tmp_path / name).exists()


# ------------------------------------------------------------------------------------------------- the place for output


def test_a_good_output_path_passes(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    for name in ("new.jsonl", "new.CSV", "new.tsv", "new.parquet", "old.csv"):
        check_output_path(tmp_path / name, tmp_path / "in.txt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.xlsx", r"cannot end in \.xlsx"),
        ("out", "no suffix"),
        ("folder.csv", "is a folder"),
        ("missing/out.csv", "folder does not exist"),
        ("pipe.jsonl", "not a regular file"),
        ("in.csv", "the output is the input"),
        ("link.csv", "the output is the input"),
        ("data/out.csv", "file of the input's folder"),
    ],
)
def test_a_wrong_output_path_is_told_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "in.csv").write_text("prompt\na\n")
    (tmp_path / "link.csv").symlink_to("in.csv")
    input_path = tmp_path / "data" if name.startswith("data") else tmp_path / "in.csv"
    with pytest.raises(UsageError, match=said) as caught:
        check_output_path(tmp_path / name, input_path)
    assert caught.value.hint


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("optional: root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="may not write"):
        check_output_path(tmp_path / "out.csv")
