"""Cause: one reason for which a run ends badly: how it shows, what to say of it, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

OPTIONAL = re.compile(r"\[([^\[\]]*)\]")
FIELD = re.compile(r"\{(\w+)\}")

Again = Literal["yes", "no", "after progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """`sentence` and `fix` name {fields}; a [part] whose field is not known is left out."""

    key: str
    signs: tuple[str, ...] = ()
    """Parts of a line of the log; ' … ' stands for anything between two parts."""
    states: frozenset[str] = frozenset()
    """Slurm's words for jobs that end so."""
    signals: frozenset[int] = frozenset()
    """Of the process that ended."""
    statuses: frozenset[int] = frozenset()
    """Exit statuses that only this explains."""
    numbers: tuple[str, ...] = ()
    """Patterns whose named groups are fields, looked for in the line with a sign and in the few after it."""
    sentence: str
    fix: str
    again: Again
    """Whether the same job once more may come further, with nothing mended."""
    follows: bool = False
    """What others say because the process with the true cause is gone."""
    vague: bool = False
    """Another cause in the same log says more."""


def filled(text: str, fields: Mapping[str, str | None]) -> str:
    """'ran out of memory[, of {capacity}]' -> 'ran out of memory, of 79.15 GiB' where the capacity is known."""

    def part(found: re.Match[str]) -> str:
        return found[1] if all(fields.get(name) for name in FIELD.findall(found[1])) else ""

    return FIELD.sub(lambda found: fields.get(found[1]) or "", OPTIONAL.sub(part, text))
