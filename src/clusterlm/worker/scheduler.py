"""Scheduler: which rows are computed next, so that no step is spent on padding or on finished rows.

Output lengths are not known beforehand, so a batch in file order waits for its longest row. Here the waiting requests
are taken shortest first, in cohorts of similar length; the cohort that has come least far is always stepped next, so it
catches up with the one ahead and the two become one. Thinned-out cohorts thus never run alone for long.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from clusterlm.worker.cohort import SPARE_COLUMNS, Cohort
from clusterlm.worker.loading import LoadedModel
from clusterlm.worker.memory import free_bytes, is_out_of_memory
from clusterlm.worker.sampling import choose_tokens
from clusterlm.worker.sequence import Sequence
from clusterlm.worker.window import MOST_ROWS, PREFILL_TOKENS

STEP_OVERHEAD_BYTES = 50_000_000
"""What a step costs besides reading the weights (launching its operations), as the bytes that could be read meanwhile:
about 5 ms at 10 GB/s, measured with 8 layers on 2 CPU cores."""

SHARE_TO_REFILL = 0.25
"""Part of the budget that must be free before more rows are let in."""

ROWS_IN_FLIGHT = 2 * MOST_ROWS
"""No more are begun: they would make no step more efficient, and be lost when the process is killed."""

FIRST_GUESS_TOKENS = 64
"""Expected length of a completion until the first ones have finished."""


class Waiting(Protocol):
    """Where sequences come from."""

    def take(self, room_tokens: int, spare_tokens: int, *, at_least_one: bool = True) -> list[Sequence]:
        """Some of similar length, each with `spare_tokens` to grow; [] when there are no more, or none fits."""

    def put_back(self, sequences: list[Sequence]) -> None:
        """These will be taken again before all others, with the tokens they have by now."""

    def must_stop(self) -> bool:
        """Whether all is to be left as it is."""


class Scheduler:
    def __init__(
        self,
        model: LoadedModel,
        waiting: Waiting,
        accept: Callable[[Sequence, int], None],
        max_batch_tokens: int | None = None,
    ) -> None:
        """`accept` appends a row's new token and sets its finish_reason when it was the last."""
        self.model = model
        self.waiting = waiting
        self.accept = accept
        self.cohorts: list[Cohort] = []
        self.most_tokens = max_batch_tokens
        self._bytes_per_token = 0
        self._completions = 0
        self._completion_tokens = 0

    def run(self) -> Iterator[list[Sequence]]:
        """The sequences that each step finished, until none is left; often an empty list."""
        while True:
            if (sequences := self._admitted()) or not self.cohorts:
                if not sequences:
                    return
                yield self._prefill(sequences)
            elif self._tokens_in_use > (self.most_tokens or 0) and self._rows > 1:
                self._return_youngest()
            else:
                yield self._step(min(self.cohorts, key=lambda cohort: cohort.span))
            self._merge()

    @property
    def _tokens_in_use(self) -> int:
        return sum(cohort.reserved_tokens for cohort in self.cohorts)

    @property
    def _rows(self) -> int:
        return sum(cohort.rows for cohort in self.cohorts)

    @property
    def _expected_tokens(self) -> int:
        """What a new row will need besides its prompt, learned from the rows that finished."""
        mean = self._completion_tokens // self._completions if self._completions else FIRST_GUESS_TOKENS
        return max(mean, SPARE_COLUMNS)

    def _admitted(self) -> list[Sequence]:
        """The next rows to prefill, as many as there is room for; [] where there is none or nothing waits."""
        if not self.cohorts:
            return self.waiting.take(self.most_tokens or PREFILL_TOKENS, self._expected_tokens)
        room = (self.most_tokens or 0) - self._tokens_in_use
        # A few rows are not worth a cohort of their own: wait until a good part of the room is free.
        if room < (self.most_tokens or 0) * SHARE_TO_REFILL or self._rows >= ROWS_IN_FLIGHT:
            return []
        return self.waiting.take(room, self._expected_tokens, at_least_one=False)

    def _prefill(self, sequences: list[Sequence]) -> list[Sequence]:
        cohort = Cohort(self.model, sequences)
        self.cohorts.append(cohort)
        finished = self._advance(cohort, cohort.prefill)
        if self._bytes_per_token == 0 and cohort in self.cohorts:
            self._bytes_per_token = cohort.bytes_per_token
            if self.most_tokens is None:
                self.most_tokens = max(PREFILL_TOKENS, free_bytes(self.model.device) // max(1, self._bytes_per_token))
        return finished

    def _step(self, cohort: Cohort) -> list[Sequence]:
        return self._advance(cohort, cohort.step)

    def _advance(self, cohort: Cohort, compute: Callable[[], torch.Tensor]) -> list[Sequence]:
        try:
            tokens = choose_tokens(compute(), cohort.sequences)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            problem.__traceback__ = None  # its frames hold the tensors that must go
            return self._out_of_memory([cohort])
        for sequence, token in zip(cohort.sequences, tokens, strict=True):
            self.accept(sequence, token)
        finished = cohort.drop_finished()
        self._completions += len(finished)
        self._completion_tokens += sum(sequence.completion_tokens for sequence in finished)
        if not cohort.rows:
            self.cohorts.remove(cohort)
        return finished

    def _merge(self) -> None:
        """Join neighbours in length where a shared step saves more than the padding costs."""
        self.cohorts.sort(key=lambda cohort: cohort.span)
        for shorter, longer in zip(self.cohorts, self.cohorts[1:], strict=False):
            saved_bytes = self.model.weight_bytes + STEP_OVERHEAD_BYTES
            padding_bytes = self._bytes_per_token * shorter.rows * (longer.span - shorter.span)
            if padding_bytes < saved_bytes and shorter.rows + longer.rows <= MOST_ROWS:
                try:
                    longer.merge(shorter)
                    self.cohorts.remove(shorter)
                except (RuntimeError, MemoryError) as problem:
                    if not is_out_of_memory(problem):
                        raise
                    problem.__traceback__ = None
                    self._out_of_memory([shorter, longer])
                return  # the list has changed; one at a time is enough

    def _out_of_memory(self, cohorts: list[Cohort]) -> list[Sequence]:
        """Halve the budget and let the cohorts' rows wait again, with what they have; a lone row that fails is over."""
        self.most_tokens = max(1, self._tokens_in_use // 2)
        alone = len(self.cohorts) == 1 and cohorts[0].rows == 1
        sequences = [sequence for cohort in cohorts for sequence in cohort.sequences]
        for cohort in cohorts:
            cohort.release()
            self.cohorts.remove(cohort)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        if not alone:
            self.waiting.put_back(sequences)
            return []
        sequences[0].error = f"not enough memory for its {len(sequences[0].tokens):,} tokens, even alone"
        return sequences

    def _return_youngest(self) -> None:
        """Over budget: the rows with the least work in them give up their place and are prefilled again later."""
        cohort = min(self.cohorts, key=lambda cohort: sum(row.completion_tokens for row in cohort.sequences))
        if len(self.cohorts) > 1:
            self.cohorts.remove(cohort)
            self.waiting.put_back(cohort.sequences)
            cohort.release()
        else:
            self.waiting.put_back(cohort.give_up_half())
