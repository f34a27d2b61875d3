"""Cohort: rows of similar length that take their steps together, with their keys and values.

Rows are aligned at their right end: the newest token of every row is in the same column, so one write per layer serves
all rows, and a model sees what it sees in any left-padded batch: the one layout that every architecture supports.

    row 0   . . a a a a a |      columns left of `start` are free again, columns right of `end` are still free
    row 1   . . . . b b b |      a finished row's place is taken by the last row
    row 2   . c c c c c c |      cohorts of similar length are merged into one as they thin out
            start        end
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DummyLayer

from clusterlm.worker.loading import LoadedModel
from clusterlm.worker.sequence import Sequence

SPARE_COLUMNS = 64
"""Free columns a cohort is given at its right end; when they are used up it is copied once into a larger place."""


class Columns:
    """The part of the buffers in use, shared by all layers of a cohort."""

    def __init__(self, capacity: int) -> None:
        self.start = 0
        self.end = 0
        self.capacity = capacity

    @property
    def used(self) -> int:
        return self.end - self.start


class CohortLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows, heads, columns, head size] each.

    Sliding-window layers keep all columns too; the model's own mask hides what is outside the window.
    """

    is_sliding = False

    def __init__(self, columns: Columns) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.columns = columns

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = _columns_like(key_states, self.columns.capacity)
        self.values = _columns_like(value_states, self.columns.capacity)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, end = key_states.shape[0], self.columns.end + key_states.shape[2]
        assert self.keys is not None and self.values is not None
        self.keys[:rows, :, self.columns.end : end] = key_states
        self.values[:rows, :, self.columns.end : end] = value_states
        live = slice(self.columns.start, end)
        return self.keys[:rows, :, live], self.values[:rows, :, live]

    def get_seq_length(self) -> int:
        return self.columns.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.columns.used + query_length, 0

    def get_max_length(self) -> int:
        return -1


class Cohort:
    """Sequences whose next tokens are computed together; row i of every tensor belongs to `sequences[i]`."""

    def __init__(self, model: LoadedModel, sequences: SequenceOf[Sequence]) -> None:
        """Nothing is computed yet: `prefill` comes first."""
        self.model = model
        self.sequences = list(sequences)
        widest = max(len(sequence.tokens) for sequence in sequences)
        self.columns = Columns(widest + SPARE_COLUMNS)
        self.mask = torch.zeros(len(sequences), self.columns.capacity, dtype=torch.long, device=model.device)
        self.cache = Cache(
            layers=[CohortLayer(self.columns) if keeps else DummyLayer() for keeps in model.cohort_layers or ()]
        )

    @property
    def rows(self) -> int:
        return len(self.sequences)

    @property
    def span(self) -> int:
        """Columns from the start of the longest row to the newest token."""
        return self.columns.used

    @property
    def reserved_tokens(self) -> int:
        """Places for tokens that the buffers take up, used or not."""
        return int(self.mask.shape[0]) * self.columns.capacity

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in all layers."""
        tensors = [tensor for layer in self._layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in tensors)

    @property
    def _layers(self) -> list[CohortLayer]:
        return [layer for layer in self.cache.layers if isinstance(layer, CohortLayer)]

    def prefill(self) -> torch.Tensor:
        """Compute the keys and values of all tokens so far; the logits of the next token, [rows, vocabulary]."""
        width = self.columns.capacity - SPARE_COLUMNS
        ids = torch.zeros(self.rows, width, dtype=torch.long)
        for row, sequence in enumerate(self.sequences):
            ids[row, width - len(sequence.tokens) :] = torch.tensor(sequence.tokens)
            self.mask[row, width - len(sequence.tokens) : width] = 1
        mask = self.mask[:, :width]
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        logits = self.model.forward(ids, mask, positions, self.cache)
        self.columns.end = width
        return logits

    def step(self) -> torch.Tensor:
        """Feed each row's newest token; the logits of the next one, [rows, vocabulary]."""
        if self.columns.end == self.columns.capacity:
            self._move(self.rows, self.span + SPARE_COLUMNS)
        end = self.columns.end
        self.mask[: self.rows, end] = 1
        ids = torch.tensor([[sequence.tokens[-1]] for sequence in self.sequences])
        # The newest token is not in the cache yet: its position is the number of tokens before it.
        positions = torch.tensor([[len(sequence.tokens) - 1] for sequence in self.sequences], device=self.model.device)
        logits = self.model.forward(ids, self.mask[: self.rows, self.columns.start : end + 1], positions, self.cache)
        self.columns.end = end + 1
        return logits

    def drop_finished(self) -> list[Sequence]:
        """Take out the rows that are done."""
        return self._take_out([row for row, sequence in enumerate(self.sequences) if sequence.finish_reason])

    def give_up_half(self) -> list[Sequence]:
        """Take out the half of the rows that lose least work by it."""
        order = sorted(range(self.rows), key=lambda row: self.sequences[row].completion_tokens)
        return self._take_out(sorted(order[: self.rows // 2]))

    def _take_out(self, rows: SequenceOf[int]) -> list[Sequence]:
        """Each place is filled by the last row; `rows` ascend."""
        taken = [self.sequences[row] for row in rows]
        for row in reversed(rows):
            last = self.rows - 1
            if row != last:
                self._copy_row(last, row)
                self.sequences[row] = self.sequences[last]
            self.sequences.pop()
        if taken and self.sequences:
            # Each row has one token more than it has columns: the newest, which is fed next.
            self.columns.start = self.columns.end - max(len(sequence.tokens) - 1 for sequence in self.sequences)
            if 2 * self.rows <= self.mask.shape[0]:
                self._move(self.rows, self.span + SPARE_COLUMNS)
        return taken

    def release(self) -> None:
        """Free the memory; the cohort must not be used any more."""
        for layer in self._layers:
            layer.keys = layer.values = None
        self.sequences = []

    def merge(self, other: Cohort) -> None:
        """Take over the rows of `other`, which must not be used any more."""
        rows, own_rows = self.rows + other.rows, self.rows
        span = max(self.span, other.span)
        self._move(rows, span + SPARE_COLUMNS, end=span)
        self.columns.start = 0
        target = slice(self.columns.end - other.span, self.columns.end)
        source = slice(other.columns.start, other.columns.end)
        for own, others in zip(self._layers, other._layers, strict=True):
            for name in ("keys", "values"):
                getattr(own, name)[own_rows:, :, target] = getattr(others, name)[: other.rows, :, source]
                setattr(others, name, None)  # layer by layer: at no time are there two copies of all
        self.mask[own_rows:, target] = other.mask[: other.rows, source]
        self.sequences += other.sequences

    def _move(self, rows: int, capacity: int, end: int | None = None) -> None:
        """Copy what is in use into buffers of another size, its right end at column `end`."""
        end = self.span if end is None else end
        source = slice(self.columns.start, self.columns.end)
        target = slice(end - self.span, end)
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                # Zeros, because what the mask hides is still multiplied by 0, and 0 x NaN is NaN.
                new = torch.zeros(rows, old.shape[1], capacity, old.shape[3], dtype=old.dtype, device=old.device)
                new[: self.rows, :, target] = old[: self.rows, :, source]
                setattr(layer, name, new)
        mask = torch.zeros(rows, capacity, dtype=torch.long, device=self.mask.device)
        mask[: self.rows, target] = self.mask[: self.rows, source]
        self.mask = mask
        self.columns.start, self.columns.end, self.columns.capacity = target.start, end, capacity

    def _copy_row(self, source: int, target: int) -> None:
        live = slice(self.columns.start, self.columns.end)
        for layer in self._layers:
            for tensor in (layer.keys, layer.values):
                assert tensor is not None
                tensor[target, :, live] = tensor[source, :, live]
        self.mask[target] = self.mask[source]


def _columns_like(states: torch.Tensor, columns: int) -> torch.Tensor:
    rows, heads, _, head_size = states.shape
    return torch.empty(rows, heads, columns, head_size, dtype=states.dtype, device=states.device)
