"""Slurm's queue: giving it jobs, once each; what became of them; ending them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clusterlm.errors import SlurmError
from clusterlm.slurm import client, sacct, squeue
from clusterlm.slurm.jobs import SEPARATOR, JobStatus, array_id_of, time_of
from clusterlm.slurm.reasons import words
from clusterlm.slurm.refusals import explained
from clusterlm.slurm.values import configuration_of

SUBMIT_SECONDS = 150.0
"""sbatch itself tries 15 times in 2 minutes where Slurm takes no jobs for the moment. Source: src/sbatch/sbatch.c"""
LOOK_AFTER_SECONDS = (1, 2, 4, 8, 15, 30)
"""A job whose id was lost is looked for, each time after so many more."""
LOOK_SECONDS = 10.0
SQUEUE = ("squeue", "--noheader", "--me", "--states=all", "--array", f"--Format={squeue.FORMAT}")
JOB_ID = re.compile(r"^(\d+)(;\S+)?$", re.MULTILINE)
"""As --parsable prints it, perhaps with the name of the cluster."""
OPTION = re.compile(r"^#SBATCH\s+--([\w-]+)", re.MULTILINE)
OTHERWISE_CALLED = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX"}
"""Variables that overrule a script are named like their option, with these exceptions. Source: `man sbatch`"""
EXPECTED_START = re.compile(r"to start at (\S+)")
OF_A_JOB = re.compile(
    r"SLURM_(?!(CONF|CLUSTERS)$)\w+|SLURMD_\w+|SRUN_\w+|\w+_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ZE_AFFINITY_MASK"
)
"""What Slurm sets in a job: sbatch would hand it on, and the next job take the number of the last one's array task."""

NO_ACCOUNTING = re.compile(r"accounting storage is disabled")
UNKNOWN_JOB = re.compile(r"Invalid job id")
OVER_ALREADY = re.compile(r"Invalid job id specified|already completing or completed")
OTHERS_JOB = re.compile(r"Kill job error on job id (\S+): Access/permission denied")
LONGEST_LIST = 100_000
"""Characters; Linux takes 131,072 in one argument (MAX_ARG_STRLEN)."""


class Unknown(SlurmError):
    """Nobody can say whether the job is in the queue."""


@dataclass(frozen=True)
class Limits:
    """Of the whole cluster."""

    array_size: int
    """Numbers of array tasks are below it."""
    jobs: int
    """That the controller remembers, each task of an array counted."""


@dataclass(frozen=True)
class Forecast:
    """What Slurm would do with a job."""

    start: datetime | None
    """As the queue is now."""
    said: str
    """In its own words: when, how many processors, on which nodes."""


def submit(script: Path, *options: str, comment: str, arguments: Sequence[str] = ()) -> str:
    """The job's id. `options`: of sbatch; `comment`: by which it can be found again, so of no other job; `arguments`:
    of the script.

    SlurmError where Slurm refuses it, Unknown where nobody can say whether it is in the queue: it is never given twice.
    """
    for seconds in LOOK_AFTER_SECONDS:
        try:
            return _given(script, options, comment, arguments)
        except client.NotHeard:
            time.sleep(seconds)
            if job := _seen(comment):
                return job
    return _given(script, options, comment, arguments)


def _given(script: Path, options: Sequence[str], comment: str, arguments: Sequence[str]) -> str:
    command = ("sbatch", "--parsable", *options, f"--comment={comment}", str(script), *arguments)
    try:
        said = client.answer(*command, seconds=SUBMIT_SECONDS, environment=_environment(script)).output
    except client.NotHeard:
        raise
    except client.Silence as silence:
        return _found_again(comment, silence.problem)
    except client.Refusal as refusal:
        raise explained(refusal, script, options) from None
    return _id_in(said) or _found_again(comment, f"sbatch says {said.strip()!r}")


def test_only(script: Path, *options: str) -> Forecast:
    """What would become of it; it is not queued. SlurmError as of submit()."""
    try:
        answer = client.answer("sbatch", "--test-only", *options, str(script), environment=_environment(script))
    except client.Refusal as refusal:
        raise explained(refusal, script, options) from None
    said = answer.remarks + answer.output
    for line in said.splitlines():
        if found := EXPECTED_START.search(line):
            return Forecast(time_of(found[1]), client.in_its_words(line))
    return Forecast(None, client.in_its_words(said))


def _id_in(said: str) -> str | None:
    """The last, for some sites' sbatch prints a greeting before."""
    found = JOB_ID.findall(said)
    return found[-1][0] if found else None


def _found_again(comment: str, why: str) -> str:
    for seconds in LOOK_AFTER_SECONDS:
        time.sleep(seconds)
        if job := _seen(comment):
            return job
    problem = f"it is not known whether the job is in the queue: {why}"
    hint = f"look with `squeue --me -o '%i %T %k'` for {comment}; submit again only where it is not there"
    raise Unknown(problem, where="sbatch", hint=hint)


def _seen(comment: str) -> str | None:
    """The id of a job that was taken; None where Slurm knows none or says nothing. SlurmError where it was refused."""
    try:
        statuses = squeue.statuses_of(client.ask(*SQUEUE, seconds=LOOK_SECONDS))
    except SlurmError:
        return None
    if any(status.comment == comment and status.was_refused for status in statuses):
        raise SlurmError(f"Slurm does not take the job: {words('BadConstraints')}", where="sbatch")
    return _with_comment(comment, statuses)


def _environment(script: Path) -> dict[str, str]:
    """This process's, without what describes the job that it is in and what would overrule the script (SBATCH_...)."""
    inside = "SLURM_JOB_ID" in os.environ
    fixed = {f"SBATCH_{OTHERWISE_CALLED.get(name, name).upper().replace('-', '_')}" for name in _options_in(script)}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in fixed and not (inside and OF_A_JOB.fullmatch(name))
    }


def _options_in(script: Path) -> list[str]:
    try:
        return OPTION.findall(script.read_text(errors="replace"))
    except OSError:
        return []  # sbatch says why


def queued_jobs() -> tuple[JobStatus, ...]:
    """All jobs of this user, with those that have ended and that the controller still remembers."""
    return squeue.statuses_of(client.read(*SQUEUE))


def accounted_jobs(jobs: Iterable[str]) -> tuple[JobStatus, ...]:
    """Of jobs that may be long over: by id, by that of an array for all its tasks. () where no accounting is kept."""
    asked = set(jobs)
    found: list[JobStatus] = []
    for some in _lists(sorted({array_id_of(job) for job in asked})):
        command = ("sacct", "--noheader", "--duplicates", "--parsable", f"--delimiter={SEPARATOR}", f"--jobs={some}")
        try:
            found += sacct.statuses_of(client.read(*command, f"--format={','.join(sacct.FIELDS)}"))
        except client.Refusal as refusal:
            if NO_ACCOUNTING.search(refusal.said):
                return ()
            raise
    return tuple(status for status in found if status.id in asked or status.array_id in asked)


def find_by_comment(comment: str) -> str | None:
    """The id of this user's job (of an array: the array's) with exactly this comment."""
    return _with_comment(comment, queued_jobs())


def _with_comment(comment: str, statuses: Iterable[JobStatus]) -> str | None:
    taken = (status for status in statuses if not status.was_refused)
    return next((status.array_id for status in taken if status.comment == comment), None)


def end_of(job: str) -> datetime | None:
    """When Slurm will end a running job at the latest; None for a job that does not run or has no limit."""
    command = ("squeue", "--noheader", "--array", "--states=running", f"--jobs={job}", f"--Format=EndTime:{SEPARATOR}")
    try:
        said = client.read(*command)
    except client.Refusal as refusal:
        if UNKNOWN_JOB.search(refusal.said):
            return None
        raise
    ends = [end for text in said.split(SEPARATOR) if (end := time_of(text))]
    return max(ends, default=None)


def cancel(jobs: str | Iterable[str]) -> None:
    """Jobs, arrays, tasks. Those that have ended already stay as they are; SlurmError where one is somebody else's."""
    names = [jobs] if isinstance(jobs, str) else list(jobs)
    for begin in range(0, len(names), LONGEST_LIST // 20):
        _cancel(names[begin : begin + LONGEST_LIST // 20])


def _cancel(names: Sequence[str]) -> None:
    try:
        client.read("scancel", *names)  # twice does no harm
    except client.Refusal as refusal:
        others = OTHERS_JOB.findall(refusal.complaint)
        if others:
            problem = f"not yours to cancel: {', '.join(others)}"
            raise SlurmError(problem, where="scancel", hint="your jobs: squeue --me") from None
        if not all(OVER_ALREADY.search(line) for line in refusal.complaint.splitlines()):
            raise


def limits() -> Limits:
    settings = configuration_of(client.read("scontrol", "show", "config"))
    return Limits(array_size=int(settings["MaxArraySize"]), jobs=int(settings["MaxJobCount"]))


def _lists(names: Sequence[str]) -> Iterator[str]:
    """Joined by commas, as many as one command line takes."""
    some: list[str] = []
    length = 0
    for name in names:
        if some and length + len(name) >= LONGEST_LIST:
            yield ",".join(some)
            some, length = [], 0
        some.append(name)
        length += len(name) + 1
    if some:
        yield ",".join(some)
