"""JobStatus: what Slurm says of one job, by its queue or by its accounting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from clusterlm.errors import UsageError
from clusterlm.units import slurm_seconds

PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
"""Source of both: `man squeue`, JOB STATE CODES."""
NO_TEXT = frozenset({"", "(null)", "None", "N/A", "None assigned"})
SEPARATOR = "\x1f"
"""ASCII's own separator of fields: names and comments may hold blanks, bars and line breaks."""
TASKS = re.compile(r"(?P<array>\d+)_\[(?P<tasks>[^\]%]*)(%\d+)?\]?")
TASK_RANGE = re.compile(r"(?P<first>\d+)(-(?P<last>\d+)(:(?P<step>\d+))?)?")


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Of a job, or of one task of an array."""

    id: str
    """12; 12_3 for task 3 of array 12."""
    state: str
    """Slurm's word for it: PENDING, RUNNING, COMPLETED, NODE_FAIL ..."""
    reason: str | None
    """Why it waits or how it failed, in Slurm's word: words() of slurm/reasons.py says more."""
    comment: str
    submitted: datetime | None
    """When it came into the queue, the last time."""
    started: datetime | None
    ended: datetime | None
    elapsed_seconds: int
    """Since its last start."""
    limit_seconds: int | None
    nodes: str
    """As Slurm writes lists: node[1-3]."""
    exit_status: int | None
    """Of the batch script, once it has ended."""
    signal: int | None
    """That ended the batch script."""
    partition: str
    expected_start: datetime | None = None
    """Of a pending job, where Slurm has a guess."""
    cancelled_by: str | None = None
    """The user who cancelled it; only accounting knows."""
    restarts: int = 0
    """Times it was put back into the queue."""
    steps_exit_status: int | None = None
    """The highest of its steps (srun); only accounting knows."""
    out_of_memory: bool = False
    """It or one of its steps was ended for taking more memory of the node than it had asked for."""
    max_memory_bytes: int | None = None
    """The highest of its steps' processes (MaxRSS); only accounting knows, and only after the end."""

    @property
    def array_id(self) -> str:
        """12 for 12_3; the id itself for a job that is no array."""
        return array_id_of(self.id)

    @property
    def is_pending(self) -> bool:
        return self.state in PENDING

    @property
    def is_running(self) -> bool:
        """It has nodes: also while they boot, while it is suspended and while its last processes end."""
        return not self.is_pending and not self.is_ended

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def was_refused(self) -> bool:
        """sbatch gave no id for it, but Slurm remembers it among those that failed."""
        return self.state == "FAILED" and self.reason == "BadConstraints" and self.elapsed_seconds == 0


def array_id_of(job: str) -> str:
    return job.partition("_")[0]


def rows_of(text: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows in which a SEPARATOR follows each field."""
    values = text.split(SEPARATOR)
    for begin in range(0, len(values) - len(fields), len(fields)):
        yield dict(zip(fields, values[begin : begin + len(fields)], strict=True))


def as_its_state_has_it(status: JobStatus) -> JobStatus:
    """Without what Slurm prints for jobs that are not so far: the start it expects, the end by the time limit, 0:0."""
    if status.is_ended and not status.nodes:
        status = replace(status, started=None)  # it never ran: Slurm prints when it was cancelled
    if status.is_pending:
        status = replace(status, expected_start=status.started, started=None, elapsed_seconds=0, nodes="")
    if not status.is_ended:
        status = replace(status, ended=None, exit_status=None, signal=None)
    return status


def each_task(job: str) -> list[str]:
    """'12_[2-4,7%2]', the tasks of an array that still wait -> 12_2, 12_3, 12_4, 12_7."""
    found = TASKS.fullmatch(job)
    if found is None:
        return [job]
    tasks: list[int] = []
    for part in found["tasks"].split(","):
        if bounds := TASK_RANGE.fullmatch(part):  # '...' stands where a list was cut
            first = int(bounds["first"])
            tasks += range(first, int(bounds["last"] or first) + 1, int(bounds["step"] or 1))
    return [f"{found['array']}_{task}" for task in tasks]


def text_or_none(text: str) -> str | None:
    return None if text.strip() in NO_TEXT else text.strip()


def time_of(text: str) -> datetime | None:
    """'2026-11-21T14:21:44', in the local zone; None for Unknown, N/A and None."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        return None


def seconds_of(text: str) -> int | None:
    """'1-00:00:00' -> 86400; None for UNLIMITED, INVALID, NOT_SET."""
    try:
        return slurm_seconds(text)
    except UsageError:
        return None


def wait_status_of(text: str) -> tuple[int, int | None]:
    """Exit status and signal: '7:0' of scontrol and sacct; '1792', as wait(2) has it, of squeue."""
    if ":" in text:
        status, signal = (int(part) for part in text.split(":", 1))
    else:
        whole = int(text)
        status, signal = whole >> 8 & 0xFF, whole & 0x7F
    return status, signal or None
