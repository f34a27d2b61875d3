"""Outcome: how one process of a job ended, for the job's own account of it and for whoever reads why."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from clusterlm.errors import ClusterlmError
from clusterlm.runs.attempt import write_json
from clusterlm.runs.progress import Progress

DONE = 0
SOME_FAILED = 3
STOPPED_EARLY = 75
"""EX_TEMPFAIL of sysexits.h: there was no time for the rest."""
UNEXPECTED = 70
"""EX_SOFTWARE of sysexits.h: one more try is worth it."""
BY_SIGNAL = 128

TIME_LIMIT = "time limit"


class Interrupted(Exception):
    """The work was asked to stop, or had no time left; all that finished is safe."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    outcome: Literal["finished", "stopped", "failed"]
    exit_status: int
    reason: str | None = None
    """Of a stop: the signal's name, or the time limit."""
    problem: str | None = None
    where: str | None = None
    hint: str | None = None
    kind: str | None = None
    """Of a failure: the name of its exception."""
    new_results: int = 0
    """Of this process."""
    failed_records: int = 0
    """Of its part, by all attempts."""

    def write(self, file: Path) -> None:
        write_json(file, asdict(self))


def finished(progress: Progress) -> Outcome:
    return Outcome(
        outcome="finished",
        exit_status=SOME_FAILED if progress.failed else DONE,
        new_results=progress.new_results,
        failed_records=progress.failed,
    )


def stop_status(reason: str) -> int:
    """`reason`: the signal's name, or the time limit."""
    return STOPPED_EARLY if reason == TIME_LIMIT else BY_SIGNAL + signal.Signals[reason]


def stopped(reason: str, progress: Progress) -> Outcome:
    return Outcome(
        outcome="stopped",
        exit_status=stop_status(reason),
        reason=reason,
        new_results=progress.new_results,
        failed_records=progress.failed,
    )


def failed(problem: Exception, progress: Progress) -> Outcome:
    """Of an error that the user can mend, its words; of any other what it says of itself."""
    kind = type(problem).__name__
    known = problem if isinstance(problem, ClusterlmError) else ClusterlmError(str(problem).strip() or kind)
    return Outcome(
        outcome="failed",
        exit_status=problem.exit_code if isinstance(problem, ClusterlmError) else UNEXPECTED,
        problem=known.problem,
        where=known.where,
        hint=known.hint,
        kind=kind,
        new_results=progress.new_results,
        failed_records=progress.failed,
    )
