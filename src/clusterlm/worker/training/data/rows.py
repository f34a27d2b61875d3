"""Rows of a micro-batch as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch.utils.data import Dataset

from clusterlm.worker.training.data.steps import Row
from clusterlm.worker.training.data.tokens import Tokens

NOT_LEARNED = -100
"""What torch's cross entropy leaves out."""


class Rows(Dataset[Any]):
    """The sequences of a row, by their numbers."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, row: Row) -> list[dict[str, numpy.ndarray]]:
        return [self._tokens.rows[number] for number in row]


class Collator:
    """[rows, tokens] of the longest row. Packed: positions begin anew with each sequence, which is how a model tells
    them apart; else a mask says what only fills up.
    """

    def __init__(self, pad_token: int, *, is_packed: bool) -> None:
        self._pad = pad_token
        self.is_packed = is_packed

    def __call__(self, rows: Sequence[list[dict[str, numpy.ndarray]]]) -> dict[str, torch.Tensor]:
        # A process without a row works on one that teaches nothing: all must take part in what they exchange.
        found = [_row(sequences) for sequences in rows] or [_nothing(self._pad)]
        width = max(len(tokens) for tokens, _, _ in found)
        shape = (len(found), width)
        ids = numpy.full(shape, self._pad, dtype=numpy.int64)
        labels = numpy.full(shape, NOT_LEARNED, dtype=numpy.int64)
        positions = numpy.tile(numpy.arange(width), (len(found), 1))
        mask = numpy.zeros(shape, dtype=numpy.int64)
        for place, (tokens, learned, places) in enumerate(found):
            length = len(tokens)
            ids[place, :length] = tokens
            labels[place, :length] = numpy.where(learned, tokens, NOT_LEARNED)
            positions[place, :length] = places
            positions[place, length:] -= length  # what fills up is a sequence of its own
            mask[place, :length] = 1
        batch = {"input_ids": ids, "labels": labels}
        batch |= {"position_ids": positions} if self.is_packed else {"attention_mask": mask}
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def _row(sequences: list[dict[str, numpy.ndarray]]) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Tokens, whether each is learned, and its place in its sequence; a sequence's first token is never predicted."""
    tokens = numpy.concatenate([one["tokens"] for one in sequences])
    learned = numpy.concatenate([one["learned"] for one in sequences]).astype(bool)
    places = numpy.concatenate([numpy.arange(len(one["tokens"])) for one in sequences])
    return tokens, learned & (places > 0), places


def _nothing(pad: int) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    return numpy.full(2, pad), numpy.zeros(2, dtype=bool), numpy.arange(2)
