"""What a request asks for, checked: a prompt or a conversation, and the row's own options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterlm.records.request import Message


class BadRow(Exception):
    """One row cannot be used; the text becomes that row's error, and the other rows go on."""


@dataclass(frozen=True)
class Payload:
    """Exactly one of `prompt` and `messages` is set."""

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def kind_of(value: object) -> str:
    """The value's type in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    words: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (str, "text"),
        ((int, float), "a number"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
    )
    return next((word for known, word in words if isinstance(value, known)), f"of type {type(value).__name__}")


def checked_prompt(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{name} is null" if value is None else f"{name} is {kind_of(value)}; text is wanted")
    if not value:
        raise BadRow(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} holds half a surrogate pair, which is no character") from None
    return value


def checked_messages(name: str, value: object) -> list[Message]:
    """The conversation, without keys that are null: in a dataset's table every message has every key."""
    if not isinstance(value, list):
        raise BadRow(f"{name} is {kind_of(value)}; a list of messages is wanted")
    if not value:
        raise BadRow(f"{name} is empty")
    messages = [_checked_message(f"{name}[{position}]", message) for position, message in enumerate(value)]
    try:
        json.dumps(messages, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRow(f"{name} holds half a surrogate pair, which is no character") from None
    except (TypeError, RecursionError) as problem:
        raise BadRow(f"{name} cannot be written as JSON: {problem}") from None
    return messages


def _checked_message(name: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise BadRow(f"{name} is {kind_of(message)}; an object with role and content is wanted")
    for key in ("role", "content"):
        if key not in message:
            raise BadRow(f"{name} has no {key}")
        if not isinstance(message[key], str):
            raise BadRow(f"{name}.{key} is {kind_of(message[key])}; text is wanted")
    if not message["role"]:
        raise BadRow(f"{name}.role is empty")
    return {key: value for key, value in message.items() if value is not None}
