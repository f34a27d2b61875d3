"""What a run's attempts that were jobs say of themselves: each one's files read once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterlm.runs import journal
from clusterlm.runs.attempt import Attempt, read_attempt
from clusterlm.runs.folder import RunFolder

BY_SIGNAL = 128
"""A process that ends with a status above this was stopped by a signal: who sent it, only Slurm knows."""


@dataclass(frozen=True)
class Told:
    """An attempt and what is written of it."""

    attempt: Attempt
    entries: list[journal.Entry] = field(repr=False)
    """Of its journal."""
    learned: journal.Entry | None = None
    """What a later attempt heard of its end from Slurm."""

    @property
    def ended(self) -> journal.Entry | None:
        """Its own word of its end; None for one that was cut off or still runs."""
        return next((entry for entry in self.entries if entry.event == "ended"), None)

    @property
    def has_worked(self) -> bool:
        """Unlike one that ended itself before the work: a chain came to its end, or another job did the work."""
        return self.ended is not None or all(entry.event != "given up" for entry in self.entries)

    @property
    def wants_asking(self) -> bool:
        """Whether Slurm knows more of its end than the attempt itself."""
        if self.learned is not None:
            return False
        return self.ended is None or self.ended.details["exit_status"] > BY_SIGNAL

    @property
    def last_sign(self) -> float:
        """Unix time of its end, or of the last file that it wrote."""
        if self.ended is not None:
            return self.ended.time
        if self.learned is not None and self.learned.details.get("ended"):
            return float(self.learned.details["ended"])
        return min(time.time(), max(_changed(path) for path in self.attempt.path.iterdir()))

    @property
    def seconds(self) -> float:
        return max(0.0, self.last_sign - self.attempt.began)


def _changed(path: Path) -> float:
    """Unix time; 0 for a file that its writer has just renamed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


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
    return [Told(one, entries[one.path], learned.get(one.number)) for one in attempts]


def chain_of(attempts: Iterable[Told], job: str) -> list[Told]:
    """The work that led to the job: its own earlier starts, and those of the jobs that it was queued to go on after.

    A job that a user has queued goes on after none: with it a new chain begins, whatever became of the one before.
    """
    known = list(attempts)
    jobs = jobs_of_chain(known, job)
    return [one for one in known if one.attempt.job in jobs and one.has_worked]


def jobs_of_chain(attempts: Iterable[Told], job: str) -> list[str]:
    """The job itself, and those that it was queued to go on after, the latest first."""
    entries = [entry for one in attempts for entry in one.entries if entry.event == "successor"]
    after = {entry.details["successor"]: entry.details["after"] for entry in entries}
    jobs = [job]
    while (earlier := after.get(jobs[-1])) is not None and earlier not in jobs:
        jobs.append(earlier)
    return jobs
