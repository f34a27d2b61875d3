"""What sacct prints of jobs and their steps, as values."""

from __future__ import annotations

import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from clusterlm.slurm.jobs import (
    JobStatus,
    as_its_state_has_it,
    each_task,
    rows_of,
    text_or_none,
    time_of,
    wait_status_of,
)

FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "DerivedExitCode",
    "Reason",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "TimelimitRaw",
    "NodeList",
    "Partition",
    "MaxRSS",
    "Comment",
)
BYTES_OF = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
AMOUNT = re.compile(r"(?P<amount>[0-9.]+)(?P<unit>[KMGT]?)")

Row = Mapping[str, str]


def statuses_of(text: str) -> tuple[JobStatus, ...]:
    """The last record of each job; those before it are of its lives until it was put back into the queue."""
    records = _records([row | {"JobID": row["JobID"].strip()} for row in rows_of(text, FIELDS)])
    last: dict[str, JobStatus] = {}
    for job, steps in records:
        for status in _statuses(job, steps, last):
            last[status.id] = status
    return tuple(last.values())


def _records(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Each job's row with those of its steps, which follow it: 12, then 12.batch and 12.0."""
    begins = [index for index, row in enumerate(rows) if "." not in row["JobID"]]
    for begin, end in pairwise([*begins, len(rows)]):
        yield rows[begin], list(rows[begin + 1 : end])


def _statuses(job: Row, steps: Sequence[Row], before: Mapping[str, JobStatus]) -> Iterator[JobStatus]:
    state, _, by = job["State"].strip().partition(" by ")
    exit_status, signal = wait_status_of(job["ExitCode"])
    memory = [found for step in steps if (found := _bytes(step["MaxRSS"])) is not None]
    limit = job["TimelimitRaw"].strip()
    for number in each_task(job["JobID"]):
        status = JobStatus(
            id=number,
            state=state,
            reason=text_or_none(job["Reason"]),
            comment=text_or_none(job["Comment"]) or "",
            submitted=time_of(job["Submit"]),
            started=time_of(job["Start"]),
            ended=time_of(job["End"]),
            elapsed_seconds=int(job["ElapsedRaw"] or 0),
            limit_seconds=int(limit) * 60 if limit.isdigit() else None,
            nodes=text_or_none(job["NodeList"]) or "",
            exit_status=exit_status,
            signal=signal,
            partition=job["Partition"].strip(),
            cancelled_by=_user(by) if by else None,
            restarts=before[number].restarts + 1 if number in before else 0,
            steps_exit_status=wait_status_of(job["DerivedExitCode"])[0],
            out_of_memory=any("OUT_OF_ME" in row["State"] for row in (job, *steps)),
            max_memory_bytes=max(memory, default=None),
        )
        yield as_its_state_has_it(status)


def _user(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError):
        return number


def _bytes(text: str) -> int | None:
    found = AMOUNT.fullmatch(text.strip())
    return round(float(found["amount"]) * BYTES_OF[found["unit"]]) if found else None
