"""Whether a run that was cut off goes on: decided from what its attempts did, by rules that a person can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterlm.runs.attempt import Attempt
from clusterlm.runs.causes.table import CAUSES
from clusterlm.runs.diagnosis import Diagnosis
from clusterlm.units import show_seconds

FRUITLESS = 2
"""So many attempts in a row that gain nothing end a chain: the next would fail at the same place."""
NOTHING_GAINED = {"records": "finished no record", "steps": "saved no step"}
"""By what a run counts."""
BY_THE_CLUSTER = frozenset({"NODE_FAIL", "PREEMPTED", "REQUEUED", "BOOT_FAIL"})
"""States that say nothing about the run itself."""


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Where a chain ends although it could go on."""

    attempts: int = 20
    """Of one shard."""
    seconds: float | None = None
    """Of all attempts of one shard together."""


@dataclass(frozen=True, kw_only=True)
class Past:
    """What one attempt did, and how it ended."""

    attempt: Attempt
    seconds: float
    new_results: int
    """Records, or steps of a training that no later attempt has to do again."""
    unit: str = "records"
    state: str | None = None
    """Slurm's word, where Slurm was asked."""
    cancelled_by: str | None = None
    diagnosis: Diagnosis | None = None
    can_take_less: bool = False
    """Its memory was too small for what it took at once; the next attempt takes less."""

    @property
    def is_fruitless(self) -> bool:
        return not self.new_results and not self._is_by_the_cluster and not self.can_take_less

    @property
    def _is_by_the_cluster(self) -> bool:
        """By Slurm's word; a job that is just ending, or that Slurm forgot, has it in its log alone."""
        if self.state is not None or self.diagnosis is None:
            return self.state in BY_THE_CLUSTER
        return any(cause.key == self.diagnosis.cause and cause.states & BY_THE_CLUSTER for cause in CAUSES)


def why_not_continue(past: Sequence[Past], caps: Caps) -> str | None:
    """The reason to stop, in a sentence; None: the chain goes on. `past`: of one shard, the earliest first."""
    if not past:
        return None
    last = past[-1]
    if last.state == "CANCELLED":
        return f"job {last.attempt.job} was cancelled by {last.cancelled_by or 'its user'}"
    if last.diagnosis is not None and not last.diagnosis.worth_another_try and not last.can_take_less:
        return f"another try would not help: {last.diagnosis.sentence}"
    fruitless = [one.is_fruitless for one in past[-FRUITLESS:]]
    if len(fruitless) == FRUITLESS and all(fruitless):
        why = f": {last.diagnosis.sentence}" if last.diagnosis else ""
        return f"{FRUITLESS} attempts in a row {NOTHING_GAINED[last.unit]}{why}"
    if len(past) >= caps.attempts:
        return f"{len(past)} attempts are over, as many as were allowed"
    spent = sum(one.seconds for one in past)
    if caps.seconds is not None and spent >= caps.seconds:
        return f"{show_seconds(spent)} are spent, of {show_seconds(caps.seconds)} that were allowed"
    return None
