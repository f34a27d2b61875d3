"""What the earlier attempts of a shard did: by their own word, and where they had no time for it by Slurm's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterlm.runs import journal
from clusterlm.runs.account import last_sign
from clusterlm.runs.attempt import Attempt, read_attempt
from clusterlm.runs.chain import Past
from clusterlm.runs.diagnosis import Evidence, diagnose
from clusterlm.runs.folder import RunFolder
from clusterlm.slurm.jobs import JobStatus
from clusterlm.units import show_slurm_time

TAIL_BYTES = 64 * 1024
"""Of a job's log: the end of it says why it ended."""
BY_SIGNAL = 128
"""A process that ends with a status above this was stopped by a signal: who sent it, only Slurm knows."""


@dataclass(frozen=True)
class Told:
    """An attempt and what is written of its end; both None for one that was cut off or still runs."""

    attempt: Attempt
    ended: journal.Entry | None
    learned: journal.Entry | None

    @property
    def wants_asking(self) -> bool:
        """Whether Slurm knows more of its end than the attempt itself."""
        if self.learned is not None:
            return False
        return self.ended is None or self.ended.details["exit_status"] > BY_SIGNAL


def attempts_of(run: RunFolder, shard: int | None = None) -> list[Attempt]:
    """Those that were jobs, the earliest first."""
    folders = [path for path in run.attempts() if (path / "attempt.json").exists()]
    attempts = [read_attempt(path) for path in folders]
    return [one for one in attempts if shard is None or one.shard == shard]


def told(attempts: Sequence[Attempt]) -> list[Told]:
    entries = {one.path: journal.read([one.journal]) for one in attempts}
    learned = {
        entry.details["attempt"]: entry for found in entries.values() for entry in found if entry.event == "learned"
    }
    return [
        Told(one, next((entry for entry in entries[one.path] if entry.event == "ended"), None), learned.get(one.number))
        for one in attempts
    ]


def past_of(run: RunFolder, one: Told, status: JobStatus | None) -> Past:
    """`status`: what Slurm says of its job; where it has learned or been told already, that."""
    attempt, details = one.attempt, one.learned.details if one.learned else {}
    state = status.state if status else details.get("state")
    cancelled_by = status.cancelled_by if status else details.get("cancelled_by")
    ended = details.get("ended") or last_sign(attempt)
    new_results = count_results(attempt)
    evidence = Evidence(
        state=state,
        exit_status=_exit_status(one, status),
        signal=status.signal if status else None,
        cancelled_by=cancelled_by,
        step_out_of_memory=bool(status and status.out_of_memory),
        log_tail=log_tail(run, attempt.job),
        outcome=worst_outcome(attempt),
        new_results=new_results,
        node=", ".join(attempt.nodes) or None,
        partition=status.partition if status else None,
        time_limit=show_slurm_time(status.limit_seconds) if status else None,
        log=str(run.log_of(attempt.job)),
    )
    return Past(
        attempt=attempt,
        seconds=max(0.0, ended - attempt.began),
        new_results=new_results,
        state=state,
        cancelled_by=cancelled_by,
        diagnosis=diagnose(evidence),
    )


def _exit_status(one: Told, status: JobStatus | None) -> int | None:
    if one.ended is not None:
        return int(one.ended.details["exit_status"])
    return status.exit_status if status else None


def count_results(attempt: Attempt) -> int:
    return sum(file.read_bytes().count(b"\n") for file in attempt.path.glob("results*.jsonl"))


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
    return next((status for status in statuses if status.id == job), None)
