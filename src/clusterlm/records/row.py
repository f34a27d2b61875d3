"""Row and Reader: what every input format offers to the one place that turns rows into requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from clusterlm.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. `place` is for people ("in.csv:7"); `error` says why its fields cannot be trusted."""

    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


class Reader(Protocol):
    """A file or folder that can be read again and again. Reading raises InputError, OSError only for the disk's own.

    form: "lines" of text, "objects" each with its own keys, or a "table" whose rows all have the same columns.
    """

    @property
    def form(self) -> Literal["lines", "objects", "table"]: ...

    def columns(self) -> tuple[str, ...]:
        """The table's columns, or the keys of the first object."""

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """All rows in order, each with at least those `wanted` fields that it has."""


def nothing_to_read(path: Path) -> InputError:
    return InputError("there is no request in it", where=str(path), hint="write at least one, or name another file")


def check_column_names(names: Sequence[str], path: Path) -> None:
    """Two columns of one name are refused; spreadsheets leave several without a name, which nobody can ask for."""
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        problem = f"there are two columns named {twice[0]!r}"
        raise InputError(problem, where=str(path), hint="rename one of them")
