"""What squeue prints of jobs, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterlm.slurm.jobs import (
    SEPARATOR,
    JobStatus,
    as_its_state_has_it,
    each_task,
    rows_of,
    seconds_of,
    text_or_none,
    time_of,
    wait_status_of,
)

FIELDS = (
    "JobArrayID",
    "State",
    "Reason",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "TimeUsed",
    "TimeLimit",
    "NodeList",
    "exit_code",
    "RestartCnt",
    "Partition",
    "Comment",
)
FORMAT = ",".join(f"{field}:{SEPARATOR}" for field in FIELDS)
"""For --Format, which unlike --format knows exit_code. Without a width, a field is as wide as its text."""


def statuses_of(text: str) -> tuple[JobStatus, ...]:
    return tuple(status for row in rows_of(text, FIELDS) for status in _statuses(row))


def _statuses(row: Mapping[str, str]) -> Iterator[JobStatus]:
    state = row["State"].strip()
    exit_status, signal = wait_status_of(row["exit_code"])
    for number in each_task(row["JobArrayID"].strip()):
        plain = JobStatus(
            id=number,
            state=state,
            reason=text_or_none(row["Reason"]),
            comment=text_or_none(row["Comment"]) or "",
            submitted=time_of(row["SubmitTime"]),
            started=time_of(row["StartTime"]),
            ended=time_of(row["EndTime"]),
            elapsed_seconds=seconds_of(row["TimeUsed"]) or 0,
            limit_seconds=seconds_of(row["TimeLimit"]),
            nodes=text_or_none(row["NodeList"]) or "",
            exit_status=exit_status,
            signal=signal,
            partition=row["Partition"].strip(),
            restarts=int(row["RestartCnt"]),
            out_of_memory=state == "OUT_OF_MEMORY",
        )
        yield as_its_state_has_it(plain)
