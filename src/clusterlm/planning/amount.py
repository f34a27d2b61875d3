"""Amount: the work of a whole job, in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.planning.case import Case
from clusterlm.planning.wishes import Wishes

USUAL_RECORDS = 10_000
USUAL_TRAINING_TOKENS = 10_000_000
"""Where the user names no amount, so that ways can be compared; a plan says that it is assumed."""


@dataclass(frozen=True)
class Amount:
    """The work of a job."""

    tokens: int
    """Trained tokens; new tokens of answers; tokens of texts to embed."""
    records: int | None
    """Prompts or texts; None in training."""
    assumed: bool

    @property
    def flag(self) -> str:
        """What sets it."""
        return "--dataset-tokens" if self.records is None else "--records"


def amount_of(case: Case, wishes: Wishes) -> Amount:
    workload = case.workload
    if workload.trains:
        tokens = (wishes.dataset_tokens or USUAL_TRAINING_TOKENS) * (wishes.epochs or 1)
        return Amount(tokens, None, assumed=wishes.dataset_tokens is None)
    records = wishes.records or USUAL_RECORDS
    each = workload.new_tokens or workload.sequence_tokens
    return Amount(records * each, records, assumed=wishes.records is None)


def rounds_of(case: Case, amount: Amount) -> int:
    """Optimizer steps, or batches of one copy, one after the other; the last one takes as long as the others."""
    workload = case.workload
    if amount.records is None:
        return -(-amount.tokens // (case.global_batch * workload.sequence_tokens))
    return -(-records_of_a_copy(case.strategy.data_degree, amount.records) // workload.batch)


def records_of_a_copy(copies: int, records: int | None) -> int:
    return -(-(records or USUAL_RECORDS) // copies)
