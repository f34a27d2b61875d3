"""A request and its result as rows of the output: a JSON line, table rows, or a bare pair of prompt and response."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from clusterlm.records.request import Choice, Request, Result

PromptAs = Literal["text", "hash"]

PAIR_COLUMNS = ("prompt", "response")

Row = dict[str, Any]


def table_columns(*, prompt_as: PromptAs, with_sample: bool) -> tuple[str, ...]:
    prompt = "prompt" if prompt_as == "text" else "prompt_sha256"
    sample = ("sample",) if with_sample else ()
    return ("id", prompt, *sample, "text", "finish_reason", "prompt_tokens", "completion_tokens", "seed", "error")


def json_line(request: Request, result: Result, prompt_as: PromptAs) -> Row:
    """One line for each request; several choices stand in a list."""
    line: Row = {"id": result.id}
    if prompt_as == "hash":
        line["prompt_sha256"] = _prompt_sha256(request)
    elif request.messages is not None:
        line["messages"] = request.messages
    else:
        line["prompt"] = request.prompt
    if len(result.choices) > 1:
        choices = [_choice_fields(choice) for choice in result.choices]
        return {**line, "choices": choices, "prompt_tokens": result.prompt_tokens, "error": result.error}
    choice = _choice_fields(result.choices[0] if result.choices else None)
    return {
        **line,
        "text": choice["text"],
        "finish_reason": choice["finish_reason"],
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": choice["completion_tokens"],
        "seed": choice["seed"],
        "error": result.error,
    }


def table_rows(request: Request, result: Result, prompt_as: PromptAs) -> Iterator[Row]:
    """One row for each choice, and one for a request that failed; it has no sample number."""
    prompt = prompt_text(request) if prompt_as == "text" else _prompt_sha256(request)
    shared = {
        "id": result.id,
        "prompt" if prompt_as == "text" else "prompt_sha256": prompt,
        "prompt_tokens": result.prompt_tokens,
        "error": result.error,
    }
    if not result.choices:
        yield {**shared, "sample": None, **_choice_fields(None)}
    for sample, choice in enumerate(result.choices):
        yield {**shared, "sample": sample, **_choice_fields(choice)}


def pair_rows(request: Request, result: Result) -> Iterator[Row]:
    """Training data: one row for each choice, none for a request that failed."""
    if result.error is None:
        for choice in result.choices:
            yield {"prompt": prompt_text(request), "response": choice.text}


def prompt_text(request: Request) -> str | None:
    """The prompt, or the messages as JSON text; None where the request itself is wrong."""
    return request.prompt if request.messages is None else json.dumps(request.messages, ensure_ascii=False)


def _prompt_sha256(request: Request) -> str | None:
    """Of the same bytes that the column `prompt` would hold, as sha256sum prints it."""
    text = prompt_text(request)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _choice_fields(choice: Choice | None) -> Row:
    names = ("text", "finish_reason", "completion_tokens", "seed")
    return {name: None if choice is None else getattr(choice, name) for name in names}
