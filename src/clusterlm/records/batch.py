"""OpenAI batch files: a line of the input as a request, a result as a line of the output.

The body's `model` is not used, because a run has one model; the output names that one.
Source of both formats: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clusterlm.records.payload import BadRow, Payload, checked_messages, checked_prompt, kind_of
from clusterlm.records.request import Choice, Request, Result

CHAT_URL = "/v1/chat/completions"
COMPLETION_URL = "/v1/completions"

CREATED = 0
"""Seconds since 1970, in every output line: clients want the field, but the real time would make equal runs differ."""


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Setting:
    """A field of the body that becomes an option of ours."""

    option: str
    fits: Callable[[Any], bool]
    wanted: str


COUNT = (lambda value: is_whole(value) and value >= 1, "a whole number from 1")

SETTINGS = {
    "max_tokens": Setting("max_new_tokens", *COUNT),
    "max_completion_tokens": Setting("max_new_tokens", *COUNT),
    "temperature": Setting("temperature", lambda value: is_number(value) and value >= 0, "a number from 0"),
    "top_p": Setting("top_p", lambda value: is_number(value) and 0 < value <= 1, "a number above 0, up to 1"),
    "top_k": Setting("top_k", lambda value: is_whole(value) and value >= 0, "a whole number from 0"),
    "repetition_penalty": Setting(
        "repetition_penalty", lambda value: is_number(value) and value > 0, "a number above 0"
    ),
    "seed": Setting("seed", lambda value: is_whole(value) and -(2**63) <= value < 2**63, "a whole number of 64 bits"),
    "n": Setting("n", *COUNT),
}


def is_batch_line(fields: Mapping[str, Any]) -> bool:
    """A web page's row may well have a url and a body, but its body is text."""
    return isinstance(fields.get("body"), Mapping) or ("custom_id" in fields and "url" in fields)


def payload_of(fields: Mapping[str, Any]) -> Payload:
    """The request in one line of the input file; BadRow names what is wrong or not supported."""
    if not is_batch_line(fields):
        raise BadRow("this is no OpenAI batch line, but the file's first row is one")
    if (method := fields.get("method", "POST")) != "POST":
        raise BadRow(f"method is {method!r}; 'POST' is wanted")
    url, body = fields.get("url"), fields.get("body")
    if url not in (CHAT_URL, COMPLETION_URL):
        raise BadRow(f"url is {url!r}; {CHAT_URL} or {COMPLETION_URL} is wanted")
    if not isinstance(body, Mapping):
        raise BadRow(f"body is {kind_of(body)}; an object is wanted")
    source = "messages" if url == CHAT_URL else "prompt"
    # Clients write null for what was not set.
    given = {name: value for name, value in body.items() if value is not None and name not in (source, "model")}
    options = _options(given)
    if source == "messages":
        return Payload(messages=checked_messages("body.messages", body.get(source)), options=options)
    return Payload(prompt=checked_prompt("body.prompt", body.get(source)), options=options)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    unsupported = [name for name in given if name not in SETTINGS and name not in ("stop", "stream")]
    if unsupported:
        raise BadRow(f"not supported in body: {', '.join(map(ascii, unsupported))}")
    if given.get("stream", False) is not False:
        raise BadRow("not supported in body: 'stream' other than false")
    options: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if name not in given:
            continue
        if not setting.fits(given[name]):
            raise BadRow(f"body.{name} is {given[name]!r:.100}; {setting.wanted} is wanted")
        if options.setdefault(setting.option, given[name]) != given[name]:
            raise BadRow("body.max_tokens and body.max_completion_tokens differ")
    if "stop" in given:
        options["stop"] = _stop(given["stop"])
    return options


def _stop(value: object) -> list[str]:
    stops = value if isinstance(value, list) else [value]
    return [checked_prompt("body.stop", stop) for stop in stops]


def output_line(request: Request, result: Result, model_name: str) -> dict[str, Any]:
    """One line of the output file, as the batch endpoint writes it."""
    line = {"id": f"batch_req_{result.payload_hash}", "custom_id": result.id}
    if result.error is not None:
        code = "invalid_request" if request.error is not None else "generation_failed"
        return {**line, "response": None, "error": {"code": code, "message": result.error}}
    body = _body(request, result, model_name)
    response = {"status_code": 200, "request_id": f"req_{result.payload_hash}", "body": body}
    return {**line, "response": response, "error": None}


def _body(request: Request, result: Result, model_name: str) -> dict[str, Any]:
    is_chat = request.messages is not None
    completion_tokens = sum(choice.completion_tokens for choice in result.choices)
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{result.payload_hash}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": CREATED,
        "model": model_name,
        "choices": [_choice(index, choice, is_chat) for index, choice in enumerate(result.choices)],
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": result.prompt_tokens + completion_tokens,
        },
    }


def _choice(index: int, choice: Choice, is_chat: bool) -> dict[str, Any]:
    content = {"message": {"role": "assistant", "content": choice.text}} if is_chat else {"text": choice.text}
    return {"index": index, **content, "logprobs": None, "finish_reason": choice.finish_reason}
