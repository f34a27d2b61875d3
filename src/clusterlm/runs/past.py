"""What the earlier attempts of a shard did: by their own word, and where they had no time for it by Slurm's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from clusterlm.runs.at_once import can_take_less
from clusterlm.runs.attempt import Attempt
from clusterlm.runs.chain import Past
from clusterlm.runs.diagnosis import Diagnosis, Evidence, diagnose
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.gained import count_results
from clusterlm.runs.told import Told
from clusterlm.slurm.jobs import JobStatus
from clusterlm.units import show_slurm_time

TAIL_BYTES = 64 * 1024
"""Of a job's log: the end of it says why it ended."""


def past_of(run: RunFolder, one: Told, status: JobStatus | None) -> Past:
    """`status`: what Slurm says of its job; where it has learned or been told already, that."""
    details = one.learned.details if one.learned else {}
    state = status.state if status else details.get("state")
    cancelled_by = status.cancelled_by if status else details.get("cancelled_by")
    return Past(
        attempt=one.attempt,
        seconds=one.seconds,
        new_results=count_results(one.attempt),
        unit=run.unit(),
        can_take_less=can_take_less(one.attempt.path),
        state=state,
        cancelled_by=cancelled_by,
        diagnosis=diagnosis_of(
            run,
            one.attempt,
            state=state,
            exit_status=_exit_status(one, status),
            signal=status.signal if status else None,
            cancelled_by=cancelled_by,
            step_out_of_memory=bool(status and status.out_of_memory),
            partition=status.partition if status else None,
            time_limit=show_slurm_time(status.limit_seconds) if status else None,
        ),
    )


def diagnosis_of(run: RunFolder, attempt: Attempt, **known: Any) -> Diagnosis | None:
    """By what its files say, and what else is known of its end."""
    evidence = Evidence(
        log_tail=log_tail(run, attempt.job),
        outcome=worst_outcome(attempt),
        new_results=count_results(attempt),
        node=", ".join(attempt.nodes) or None,
        log=str(run.log_of(attempt.job)),
        **known,
    )
    return diagnose(evidence)


def _exit_status(one: Told, status: JobStatus | None) -> int | None:
    if one.ended is not None:
        return int(one.ended.details["exit_status"])
    return status.exit_status if status else None


def worst_outcome(attempt: Attempt) -> dict[str, object] | None:
    """What one of its processes says of its end: a failure goes before a stop, a stop before an end."""
    order = ("failed", "stopped", "finished")
    outcomes = sorted(attempt.outcomes(), key=lambda outcome: order.index(outcome["outcome"]))
    return outcomes[0] if outcomes else None


def log_tail(run: RunFolder, job: str) -> str:
    """The end of what the job printed; "" where it printed nothing."""
    try:
        with open(run.log_of(job), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def status_of(job: str, statuses: Iterable[JobStatus]) -> JobStatus | None:
    """Its last: accounting tells of each start of a job that was put back into the queue, the earliest first."""
    return next((status for status in reversed(list(statuses)) if status.id == job), None)
