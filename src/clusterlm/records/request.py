"""Request and Result: the unit that is never lost and never doubled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Message = Mapping[str, Any]
"""One turn of a conversation: `role` and `content`, as chat templates take them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One row of the input. Exactly one of `prompt`, `messages` and `error` is set.

    `options` are this row's own settings (an OpenAI batch body has them), by the names that the run file uses.
    `error` says why the row cannot be used; it becomes the row's result and does not stop the others.
    """

    index: int
    id: str
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def payload_hash(self) -> str:
        """16 hex digits that change when anything of the request changes but its place in the file."""
        payload = {
            "id": self.id,
            "prompt": self.prompt,
            "messages": self.messages,
            "options": self.options,
            "error": self.error,
        }
        text = json.dumps(payload, sort_keys=True, ensure_ascii=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Choice:
    """One generated text. `finish_reason`: "stop" (end of text or a stop string) or "length"."""

    text: str
    finish_reason: str
    completion_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one Request: its choices (one unless `n` was asked for), or the error."""

    index: int
    id: str
    payload_hash: str
    prompt_tokens: int = 0
    choices: tuple[Choice, ...] = ()
    error: str | None = None

    def to_json(self) -> str:
        """One line, without its newline; half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD."""
        line = json.dumps(asdict(self), ensure_ascii=False)
        try:
            line.encode()
        except UnicodeEncodeError:
            line = line.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return line

    @classmethod
    def from_json(cls, line: str | bytes) -> Result:
        fields = json.loads(line)
        fields["choices"] = tuple(Choice(**choice) for choice in fields["choices"])
        return cls(**fields)
