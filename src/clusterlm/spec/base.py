"""What the specs of all tasks have in common."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

STANDARD_STREAM = "-"
"""As INPUT: standard input. As OUTPUT: standard output (runs.folder has the name too, because it must load fast)."""


class TaskSpec(BaseModel):
    """What the user asks of one task; the fields are the names of the flags and of the run file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    NOT_IN_RESULTS: ClassVar[frozenset[str]] = frozenset()
    """Settings that change no result; a run may be continued with others."""

    task: str
    model: str = Field(min_length=1)
    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    revision: str | None = None

    column: str | None = None
    template: str | None = None
    split: str | None = None
    whole_file: bool = False

    def settings(self) -> dict[str, Any]:
        """What decides the results, but for the content of the model and of the input."""
        return self.model_dump(mode="json", exclude=set(self.NOT_IN_RESULTS))

    def to_toml(self) -> str:
        """The run file that asks for the same; what was left at its default is left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        lines = [f"{name} = {_toml(value)}" for name, value in {"task": self.task, **given}.items()]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Strings, numbers, booleans and lists of them are the same in JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
