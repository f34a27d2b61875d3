"""Steps: which sequences each optimizer step learns from, and how its processes share them.

A step's sequences follow from the seed and the step's number alone: not from how many processes there are, how much
fits at once, or whether it is packed. So a run continues on another number of GPUs as if nothing had happened.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy

Row = tuple[int, ...]
"""Sequences, by their number, that stand one behind the other in one row of a batch."""
LOOKED_AT = 1000
"""Steps: packing one takes about a millisecond."""
NARROWEST_ROW = 256
"""Tokens: below it attention is a small part of the work, and short rows are hard to fill."""
USUAL_SHARE = 0.9
"""Of the sequences are no longer than what rows are filled up to."""


@dataclass(frozen=True)
class Steps:
    """All steps of a training. An epoch's last step has what is left; the next epoch begins with another order."""

    lengths: numpy.ndarray
    """Tokens of each sequence."""
    sequences_per_step: int
    epochs: int
    max_steps: int | None
    seed: int

    @property
    def per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.sequences_per_step)

    @property
    def count(self) -> int:
        return self.max_steps or self.per_epoch * self.epochs

    def epoch_of(self, step: int) -> float:
        """Epochs that are over behind step `step`, counted from 1."""
        return step / self.per_epoch

    def sequences(self, step: int) -> Sequence[int]:
        """Of the step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        first = place * self.sequences_per_step
        return [
            int(number)
            for number in _order(len(self.lengths), self.seed, epoch)[first : first + self.sequences_per_step]
        ]


@lru_cache(maxsize=2)
def _order(sequences: int, seed: int, epoch: int) -> numpy.ndarray:
    return numpy.random.default_rng([seed, epoch]).permutation(sequences)


@dataclass(frozen=True)
class Shares:
    """How the rows of a step go to its processes: `micro_batches` of each, which hold at most `most_tokens`."""

    steps: Steps
    row_tokens: int
    """Of the longest sequence that there may be."""
    rows: int
    """Sequences so long at once on one device; as many more as they are shorter."""
    processes: int
    is_packed: bool

    @property
    def most_tokens(self) -> int:
        """Of a micro-batch, with what only fills up."""
        return self.rows * self.row_tokens

    @cached_property
    def packed_tokens(self) -> int:
        """That a row is filled up to. No more than most sequences have: every token of a row is compared with every
        other, also with those of foreign sequences, so long rows cost more. The longest sequences stay alone.
        """
        usual = int(numpy.quantile(self.steps.lengths, USUAL_SHARE))
        return min(self.row_tokens, max(NARROWEST_ROW, usual))

    @cached_property
    def micro_batches(self) -> int:
        """Of each process in each step: as many as those with the most tokens need, of steps spread over the training.

        Should another need more, its micro-batches hold more.
        """
        count = self.steps.count
        looked_at = range(0, count, math.ceil(count / LOOKED_AT))
        most = max(len(_together(self._rows(step), self.most_tokens)) for step in looked_at)
        return math.ceil(most / self.processes)

    def of_step(self, step: int) -> list[list[Row]]:
        """Micro-batches, which the processes take in turn; some may hold no row. All of about the same size."""
        rows = self._rows(step)
        wanted = self.micro_batches * self.processes
        longest = rows[0].tokens
        sizes = range(longest, longest * len(rows) + 1)
        enough = sizes[bisect_left(sizes, True, key=lambda size: len(_together(rows, size)) <= wanted)]
        found = [[row.sequences for row in batch] for batch in _together(rows, enough)]
        return found + [[] for _ in range(wanted - len(found))]

    def _rows(self, step: int) -> list[_Row]:
        """The longest first, so that neighbours are about equally long."""
        sequences = self.steps.sequences(step)
        lengths = self.steps.lengths
        rows = pack(sequences, lengths, self.packed_tokens) if self.is_packed else [(number,) for number in sequences]
        return sorted((_Row(row, int(lengths[list(row)].sum())) for row in rows), key=lambda row: -row.tokens)


class _Row(NamedTuple):
    sequences: Row
    tokens: int


def _together(rows: Sequence[_Row], most_tokens: int) -> list[list[_Row]]:
    """Neighbours, as many as `most_tokens` hold when each is filled up to the first, or one."""
    found: list[list[_Row]] = []
    room = 0
    for row in rows:
        if not room:
            found.append([])
            room = max(1, most_tokens // row.tokens)
        found[-1].append(row)
        room -= 1
    return found


def pack(sequences: Sequence[int], lengths: numpy.ndarray, row_tokens: int) -> list[Row]:
    """Best fit, the longest first: each sequence goes where the least room is left. A longer one has its own row."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # room and place of each, the fullest first
    for number in sorted(sequences, key=lambda number: (-int(lengths[number]), number)):
        length = int(lengths[number])
        fitting = bisect_left(open_rows, (length, 0))
        if fitting < len(open_rows):
            room, place = open_rows.pop(fitting)
            rows[place].append(number)
        else:
            room, place = row_tokens, len(rows)
            rows.append([number])
        if room > length:
            insort(open_rows, (room - length, place))
    return [tuple(row) for row in rows]


class StepBatches:
    """What a DataLoader takes as its batch sampler: the micro-batches of one process, from a step on."""

    def __init__(self, shares: Shares, process: int, first_step: int = 0) -> None:
        self._shares = shares
        self._process = process
        self._first_step = first_step

    def __len__(self) -> int:
        """Of the whole training, also where an earlier attempt did a part of it: the trainer counts steps by it."""
        return self._shares.steps.count * self._shares.micro_batches

    def __iter__(self) -> Iterator[list[Row]]:
        for step in range(self._first_step, self._shares.steps.count):
            yield from self._shares.of_step(step)[self._process :: self._shares.processes]
