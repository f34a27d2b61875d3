"""Steps: which sequences each optimizer step learns from, and how its processes share them.

A step's sequences follow from the seed and the step's number alone: not from how many processes there are, how much
fits at once, or whether it is packed. So a run continues on another number of GPUs as if nothing had happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy

Row = tuple[int, ...]
"""Sequences, by their number, that stand one behind the other in one row of a batch."""
LOOKED_AT = 1000
"""Steps: packing one takes about a millisecond."""


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
    """How the rows of a step go to its processes: `micro_batches` of each, of at most `rows` rows."""

    steps: Steps
    row_tokens: int
    rows: int
    """At once on one device."""
    processes: int
    is_packed: bool

    @cached_property
    def micro_batches(self) -> int:
        """Of each process in each step: as many as those with the most rows need, of steps spread over the training.

        Should another have more rows, its micro-batches take one more each.
        """
        count = self.steps.count
        looked_at = range(0, count, math.ceil(count / LOOKED_AT))
        most = max(len(self._packed(step)) for step in looked_at)
        return math.ceil(most / (self.rows * self.processes))

    def of_step(self, step: int) -> list[list[Row]]:
        """Micro-batches, which the processes take in turn; some may hold no row.

        Long rows go together, so that short ones are not filled up to their length.
        """
        rows = sorted(self._packed(step), key=lambda row: -self._tokens(row))
        wanted = self.micro_batches * self.processes
        each, more = divmod(len(rows), wanted)
        sizes = [each + (place < more) for place in range(wanted)]
        ends = numpy.cumsum(sizes)
        return [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def _packed(self, step: int) -> list[Row]:
        sequences = self.steps.sequences(step)
        if not self.is_packed:
            return [(number,) for number in sequences]
        return pack(sequences, self.steps.lengths, self.row_tokens)

    def _tokens(self, row: Row) -> int:
        return int(sum(self.steps.lengths[number] for number in row))


def pack(sequences: Sequence[int], lengths: numpy.ndarray, row_tokens: int) -> list[Row]:
    """Best fit, the longest first: each sequence goes where the least room is left. A longer one has its own row."""
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(sequences, key=lambda number: (-int(lengths[number]), number)):
        length = int(lengths[number])
        fitting = [place for place, left in enumerate(room) if left >= length]
        if fitting:
            place = min(fitting, key=room.__getitem__)
            rows[place].append(number)
            room[place] -= length
        else:
            rows.append([number])
            room.append(row_tokens - length)
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
