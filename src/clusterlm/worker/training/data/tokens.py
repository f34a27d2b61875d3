"""Tokens: all examples encoded once, in a file that every process maps; and what was cut or left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy
import pyarrow
from datasets import Dataset

from clusterlm.errors import InputError
from clusterlm.records.files import write_whole
from clusterlm.worker.training.data.encoding import Encoded

TooLong = Literal["split", "truncate", "drop"]
SCHEMA = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        ("tokens", pyarrow.list_(pyarrow.int32())),
        ("learned", pyarrow.list_(pyarrow.bool_())),
    ]
)
ROWS_AT_ONCE = 1000
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of the lengths that are told."""


@dataclass(frozen=True)
class TokenTable:
    """What became of the examples. Counts; `lengths`: tokens of the shortest, the median, the longest, and between."""

    examples: int
    sequences: int
    tokens: int
    learned_tokens: int
    cut: int
    """Examples that were longer than a sequence, and were split or truncated."""
    dropped: int
    """Examples without a token to learn, and those that were too long where these are dropped."""
    lengths: tuple[int, ...]

    def lines(self) -> list[str]:
        shortest, low, median, high, longest = self.lengths
        found = [
            f"{self.examples:,} examples: {self.sequences:,} sequences, {self.tokens:,} tokens"
            f" ({self.learned_tokens / max(1, self.tokens):.0%} of them learned)",
            f"tokens of a sequence: {shortest:,} at least, {median:,} in the middle, {longest:,} at most;"
            f" eight of ten between {low:,} and {high:,}",
        ]
        if self.cut:
            found.append(f"{self.cut:,} examples were longer than a sequence, and were cut")
        if self.dropped:
            found.append(f"{self.dropped:,} examples were left out: too long, or nothing in them to learn")
        return found


@dataclass(frozen=True)
class Tokens:
    """Sequences of at most so many tokens, in a file that is mapped, not read."""

    table: TokenTable
    rows: Dataset
    """index int64, tokens int32 [length], learned bool [length]"""
    lengths: numpy.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def write_tokens(path: Path, key: dict[str, Any], encoded: Iterable[Encoded], limit: int, too_long: TooLong) -> None:
    """`path`.arrow and, when it is whole, `path`.json; nothing where they hold the same already.

    `key`: all that they follow from. InputError where nothing is left to learn.
    """
    if _is_there(path, key):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    counting = _Counting(limit, too_long)
    write_whole(path.with_suffix(".arrow"), lambda file: _write_rows(file, counting.cut(encoded), path, limit))
    content = {"key": key, "table": asdict(counting.table())}
    write_whole(path.with_suffix(".json"), lambda file: file.write(json.dumps(content).encode()))


def _write_rows(file: BinaryIO, sequences: Iterator[Encoded], path: Path, limit: int) -> None:
    rows = list(islice(sequences, ROWS_AT_ONCE))
    if not rows:
        raise InputError(
            "nothing is left to learn: every example was left out",
            where=str(path),
            hint=f"the longest sequence is {limit:,} tokens: --sequence-length, or --too-long truncate",
        )
    with pyarrow.ipc.new_stream(file, SCHEMA) as writer:
        while rows:
            writer.write_batch(_batch(rows))
            rows = list(islice(sequences, ROWS_AT_ONCE))


def read_tokens(path: Path) -> Tokens:
    table = json.loads(path.with_suffix(".json").read_bytes())["table"]
    rows = Dataset.from_file(str(path.with_suffix(".arrow"))).with_format("numpy")
    offsets = [numpy.asarray(chunk.offsets) for chunk in rows.data.column("tokens").chunks]
    lengths = numpy.concatenate([numpy.diff(one) for one in offsets])
    return Tokens(TokenTable(**{**table, "lengths": tuple(table["lengths"])}), rows, lengths)


def _is_there(path: Path, key: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.with_suffix(".json").read_bytes())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _batch(rows: list[Encoded]) -> pyarrow.RecordBatch:
    columns = [[one.index for one in rows], [one.tokens for one in rows], [one.learned for one in rows]]
    arrays = [pyarrow.array(column, type=kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
    return pyarrow.record_batch(arrays, schema=SCHEMA)


class _Counting:
    def __init__(self, limit: int, too_long: TooLong) -> None:
        self._limit = limit
        self._too_long = too_long
        self._examples = self._cut = self._dropped = self._learned = 0
        self.lengths: list[int] = []

    def cut(self, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
        """Sequences of at most the limit, each with something to learn."""
        for one in encoded:
            self._examples += 1
            found = list(self._parts(one))
            is_longer = len(one.tokens) > self._limit
            self._cut += is_longer and bool(found)
            self._dropped += not found
            for part in found:
                self.lengths.append(len(part.tokens))
                self._learned += int(part.learned[1:].sum())
                yield part

    def _parts(self, one: Encoded) -> Iterator[Encoded]:
        length = len(one.tokens)
        if length > self._limit and self._too_long == "drop":
            return
        last = length if self._too_long == "split" else self._limit
        for start in range(0, min(length, last), self._limit):
            end = start + self._limit
            part = Encoded(one.index, one.tokens[start:end], one.learned[start:end])
            if part.learned[1:].any():  # the first token of a sequence is never predicted
                yield part

    def table(self) -> TokenTable:
        ordered = sorted(self.lengths)
        shown = tuple(ordered[round(share * (len(ordered) - 1))] for share in SHARES)
        tokens = sum(ordered)
        return TokenTable(self._examples, len(ordered), tokens, self._learned, self._cut, self._dropped, shown)
