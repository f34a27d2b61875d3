"""Giving a run to Slurm, once and no more, and taking it back; what happened stands in the run's journal."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from clusterlm.errors import RunError, SlurmError
from clusterlm.records.files import write_whole
from clusterlm.records.log import ResultLog
from clusterlm.runs import journal
from clusterlm.runs.attempt import write_json
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.order import Order
from clusterlm.runs.state import active, numbers_in
from clusterlm.runs.submission import Submission, arguments, comment_of, read_submission, was_submitted
from clusterlm.runs.told import attempts_of
from clusterlm.slurm import queue
from clusterlm.slurm.header import ranges
from clusterlm.slurm.jobs import JobStatus

ALL_DONE = {"records": "every record has a result already", "steps": "the model is trained already"}
"""By what a run counts."""


def write_order(run: RunFolder, order: Order, plan: dict[str, Any]) -> None:
    """All that `sbatch job.sbatch` needs; nothing is queued yet."""
    run.logs.mkdir(exist_ok=True)
    write_json(run.path / "plan.json", plan)
    order.submission.write(run)
    write_whole(run.script, lambda file: file.write(order.script.encode()))


def submit(run: RunFolder, order: Order | None = None, plan: dict[str, Any] | None = None) -> list[str]:
    """The jobs queued for what is missing, as Slurm numbers them: 12, or 12_[0-5] of an array.

    With an order its script is written first; without, the jobs are those of before. RunError where jobs of this run
    are with Slurm already, or nothing is missing.
    """
    with run.locked("submit.lock"):
        if run.finished() is None:  # else its last job may still be seen, with nothing left to do
            refuse_second(run)
        if order is not None:
            write_order(run, order, plan or {})
        submission = read_submission(run)
        shards = missing_shards(run, submission)
        if not shards:
            raise RunError(ALL_DONE[run.unit()], where=str(run.path), hint="clusterlm runs show")
        return [_submit_group(run, submission, first, group) for first, group in _groups(submission, shards)]


def missing_shards(run: RunFolder, submission: Submission) -> list[int]:
    """Those with records that have no result yet; one where only OUTPUT is missing, which any job writes.

    A training is one.
    """
    if run.task() == "train":
        return [] if run.finished() else [0]
    requests = int(run.read()["requests"])
    with ResultLog(None, others=run.result_files()) as log:
        if not len(log):
            return list(range(submission.shards))
        missing = sorted({index % submission.shards for index in range(requests) if index not in log})
    return missing or ([] if run.finished() else [0])


def _groups(submission: Submission, shards: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """The shards of one array each: (the shard that its task 0 works on, its shards)."""
    size = queue.limits().array_size if submission.shards > 1 else 1
    for first in range(0, submission.shards, size):
        if group := [shard for shard in shards if first <= shard < first + size]:
            yield first, group


def _submit_group(run: RunFolder, submission: Submission, first: int, shards: Sequence[int]) -> str:
    token = secrets.token_hex(4)
    comment = comment_of(run, token)
    tasks = ranges([shard - first for shard in shards])
    options = []
    if submission.shards > 1:
        limit = f"%{submission.at_once}" if submission.at_once else ""
        options.append(f"--array={tasks}{limit}")
    journal.note(run.journal, "submitting", "asks Slurm for a job", comment=comment, tasks=tasks, first_shard=first)
    try:
        number = queue.submit(run.script, *options, comment=comment, arguments=arguments(first))
    except SlurmError as problem:
        if not isinstance(problem, queue.Unknown):
            journal.note(run.journal, "refused", problem.problem, comment=comment)
        raise
    return _submitted(run, submission, number, comment, tasks)


def _submitted(run: RunFolder, submission: Submission, number: str, comment: str, tasks: str) -> str:
    shown = f"{number}_[{tasks}]" if submission.shards > 1 else number
    journal.note(run.journal, "submitted", f"job {shown} is queued", job=number, comment=comment, tasks=tasks)
    return shown


def refuse_second(run: RunFolder) -> None:
    """RunError while jobs of the run are with Slurm; a submit whose answer was lost is looked for first."""
    if not was_submitted(run):
        return
    for entry in unanswered(run):
        if number := queue.find_by_comment(entry.details["comment"]):
            _submitted(run, read_submission(run), number, entry.details["comment"], entry.details["tasks"])
        else:
            journal.note(run.journal, "refused", "Slurm has no such job", comment=entry.details["comment"])
    active = active_jobs(run, queue.queued_jobs())
    if active:
        first = active[0]
        hint = f"follow it: clusterlm runs watch {run.name}; take it back: clusterlm runs cancel {run.name}"
        raise RunError(f"is with Slurm already: job {first.id} is {first.state}", where=str(run.path), hint=hint)


def unanswered(run: RunFolder) -> list[journal.Entry]:
    """Submits of which it is not known whether Slurm has them."""
    entries = journal.read([run.journal])
    answered = {entry.details.get("comment") for entry in entries if entry.event in ("submitted", "refused")}
    return [one for one in entries if one.event == "submitting" and one.details["comment"] not in answered]


def active_jobs(run: RunFolder, jobs: Sequence[JobStatus]) -> tuple[JobStatus, ...]:
    """Of `jobs`, those of this run that have not ended."""
    attempts = attempts_of(run)
    return active(run, numbers_in(journal.read([run.journal, *(attempt.journal for attempt in attempts)])), jobs)


def cancel(run: RunFolder) -> list[str]:
    """The jobs that were taken back; those waiting to continue first, so that none starts meanwhile.

    It looks again until nothing is left: a job that begins just then queues the one that would go on after it.
    """
    taken: list[str] = []
    while ids := [job for job in _waiting_first(run) if job not in taken]:
        said = f"job {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
        with suppress(RunError):  # a folder that cannot be written to is no reason to let its jobs run on
            journal.note(run.journal, "cancelled", f"{said}: taken back by the user", jobs=ids)
        queue.cancel(ids)
        taken += ids
    return taken


def _waiting_first(run: RunFolder) -> list[str]:
    return [job.id for job in sorted(active_jobs(run, queue.queued_jobs()), key=lambda job: not job.is_pending)]
