"""Reading requests of JSON: lines, lists, and batches as OpenAI takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import InputError
from clusterlm.records.request import Request
from clusterlm.records.source import open_source
from tests.unit.records.sources import errors, prompts, refusal, written

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
