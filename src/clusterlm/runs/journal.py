"""The run's journal: every decision about its jobs as a line of JSON; on the login side one file, in each job another.

So no two machines ever append to one file: not every network file system can do that without losing lines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, write_all

Event = Literal[
    "submitting",  # about to ask Slurm, with the comment by which the job can be found again
    "submitted",
    "refused",
    "cancelled",  # by `clusterlm runs cancel`
    "started",
    "learned",  # what became of an earlier job that had no time to say it
    "successor",  # queued, for the case that this job ends early
    "no successor",
    "ended",
    "given up",
    "successor cancelled",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """`time`: Unix time. `said`: the decision and its reason in a sentence."""

    time: float
    event: Event
    said: str
    job: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        values = {"time": self.time, "event": self.event, "job": self.job, "said": self.said, **self.details}
        return json.dumps(values, ensure_ascii=False) + "\n"


def note(path: Path, event: Event, said: str, *, job: str | None = None, **details: Any) -> Entry:
    """Append to the journal at `path`; on the disk when this returns."""
    entry = Entry(round(time.time(), 6), event, said, job, details)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            write_all(descriptor, (_end_of_torn_line(descriptor) + entry.line).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise RunError(disk_problem(error), where=str(path), hint="free space, or ask for the right to write") from None
    return entry


def _end_of_torn_line(descriptor: int) -> str:
    """What a crash or a full disk left of an entry must not take the next with it."""
    size = os.fstat(descriptor).st_size
    return "\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else ""


def read(paths: Iterable[Path]) -> list[Entry]:
    """All entries in the order of time; a line that a crash left torn is left out."""
    entries = [entry for path in paths for entry in _entries(path)]
    return sorted(entries, key=lambda entry: entry.time)


def _entries(path: Path) -> Iterable[Entry]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        yield Entry(values.pop("time"), values.pop("event"), values.pop("said"), values.pop("job"), values)
