"""What a run's batch script calls before and after the work: the chain of jobs keeps itself, on no login node.

`begin` queues the job that goes on should this one be cut off; `end` cancels it where there is nothing to go on with.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from clusterlm.errors import RunError, SlurmError
from clusterlm.runs import journal
from clusterlm.runs.at_once import can_take_less
from clusterlm.runs.attempt import Attempt, attempt_of_this_job
from clusterlm.runs.chain import Past, why_not_continue
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.gained import count_results
from clusterlm.runs.past import diagnosis_of, past_of, status_of, worst_outcome
from clusterlm.runs.submission import Submission, arguments, comment_of, read_submission
from clusterlm.runs.told import Told, attempts_of, chain_of, jobs_of_chain, told
from clusterlm.slurm import queue
from clusterlm.slurm.here import ThisJob, this_job
from clusterlm.slurm.jobs import JobStatus

GAINED = {"records": "new results", "steps": "more steps kept"}
"""By what a run counts."""
DONE = (0, 3)
"""Exit statuses with which there is nothing left to do: all records are done, or those that failed will fail again."""


def begin(run: RunFolder, first_shard: int = 0) -> Attempt:
    """The attempt of this job, its successor queued. RunError where the chain ends here.

    `first_shard`: that of task 0 of its array; Slurm's arrays may be too short for all shards of a run.
    """
    here = this_job()
    if here is None:
        raise RunError("this is no Slurm job", where=str(run.path), hint="sbatch starts a run's job.sbatch")
    submission = read_submission(run)
    jobs = _jobs_or_none()
    shard = first_shard + (here.task or 0)
    if shard >= submission.shards:
        problem = f"there is no shard {shard}: the input was cut into {submission.shards}, counted from 0"
        raise RunError(problem, where=str(run.path), hint=f"clusterlm runs resume {run.name}")
    attempt = _begun(run, here, shard, submission, jobs)
    attempts = [one for one in attempts_of(run, shard) if one.number <= attempt.number]
    _find_predecessor(attempt, told(attempts), jobs)
    known = told(attempts)
    at_work = _at_work(known, here.id, jobs)
    over = [one for one in chain_of(known, here.id)[:-1] if one.attempt.job != at_work]
    past = [_learned(run, attempt, one, jobs) for one in over]
    if reason := _taken_back(run, known, here.id) or why_not_continue(past, submission.caps):
        _give_up(run, attempt, reason)
        raise RunError(f"not continued: {reason}", where=str(run.path), hint=f"clusterlm runs resume {run.name}")
    _queue_successor(run, attempt, at_work or here.id, past, submission, jobs)
    if at_work is not None:
        said = f"job {at_work} works on this already"
        journal.note(attempt.journal, "given up", said, job=here.id)
        raise RunError(said, where=str(run.path), hint="nothing is lost: that job, or the one after it, finishes")
    return attempt


def _find_predecessor(attempt: Attempt, known: Sequence[Told], jobs: tuple[JobStatus, ...] | None) -> None:
    """Of a job whose number the one before it did not write down: it was ended while it asked Slurm for it."""
    own = status_of(attempt.job, jobs or ())
    if own is None or len(jobs_of_chain(known, attempt.job)) > 1:
        return
    asked = [entry.details for one in known for entry in one.entries if entry.event == "submitting"]
    for after in (details["after"] for details in asked if details["comment"] == own.comment):
        said = f"was queued to go on after job {after}"
        journal.note(attempt.journal, "successor", said, job=attempt.job, successor=attempt.job, after=after)


def _taken_back(run: RunFolder, known: Sequence[Told], job: str) -> str | None:
    """By the user, while this job was just being queued to go on after another."""
    entries = [entry for entry in journal.read([run.journal]) if entry.event == "cancelled"]
    cancelled = {taken for entry in entries for taken in entry.details["jobs"]}
    found = next((one for one in jobs_of_chain(known, job) if one in cancelled), None)
    return f"job {found} was cancelled by `clusterlm runs cancel`" if found else None


def _give_up(run: RunFolder, attempt: Attempt, reason: str) -> None:
    """Not only this job: also the one that waits to go on after it."""
    waiting = successors(run, attempt.shard, attempt.job)
    if waiting:
        _cancel(attempt, waiting, reason)
    journal.note(attempt.journal, "given up", f"not continued: {reason}", job=attempt.job)


def _cancel(attempt: Attempt, waiting: Sequence[str], reason: str) -> None:
    """Where Slurm does not answer they stay: each sees for itself, when it begins, that nothing is left to do."""
    try:
        queue.cancel(waiting)
    except SlurmError as problem:
        said = f"job {', '.join(waiting)} is not needed, and not cancelled: {problem.problem}"
        journal.note(attempt.journal, "successor cancelled", said, job=attempt.job, successors=[])
        return
    said = f"job {', '.join(waiting)} is not needed: {reason}"
    journal.note(attempt.journal, "successor cancelled", said, job=attempt.job, successors=waiting)


def _at_work(known: Sequence[Told], job: str, jobs: tuple[JobStatus, ...] | None) -> str | None:
    """Another job on the same shard. Slurm may start a successor although it puts the job before it into the queue
    again; of the two, the one that began first works.
    """
    running = {(status.id, status.restarts) for status in jobs or () if status.state == "RUNNING"}
    others = [one.attempt for one in known if one.attempt.job != job and one.has_worked]
    return next((other.job for other in others if (other.job, other.restarts) in running), None)


def _jobs_or_none() -> tuple[JobStatus, ...] | None:
    """None where the controller does not answer: the work itself needs no controller."""
    try:
        return queue.queued_jobs()
    except SlurmError:
        return None


def _begun(
    run: RunFolder, here: ThisJob, shard: int, submission: Submission, jobs: tuple[JobStatus, ...] | None
) -> Attempt:
    own = status_of(here.id, jobs or ())
    attempt = Attempt(
        path=run.new_attempt(),
        began=time.time(),
        job=here.id,
        shard=shard,
        shards=submission.shards,
        restarts=here.restarts,
        ends=here.ends or _end_of(own),
        nodes=tuple(here.node_list.split()),
        gpus=here.gpus or submission.gpus,
    )
    attempt.write()
    part = f" on shard {shard} of {submission.shards}" if submission.shards > 1 else ""
    again = f", start {here.restarts + 1} of this job" if here.restarts else ""
    journal.note(attempt.journal, "started", f"works{part} on {here.node_list}{again}", job=here.id, shard=shard)
    return attempt


def _end_of(own: JobStatus | None) -> float | None:
    if own is None or own.started is None or own.limit_seconds is None:
        return None
    return own.started.timestamp() + own.limit_seconds


def _learned(run: RunFolder, attempt: Attempt, one: Told, jobs: tuple[JobStatus, ...] | None) -> Past:
    """The past of an earlier attempt; what Slurm says of its end is written down, for Slurm forgets it."""
    earlier = one.attempt
    if not one.wants_asking and not _was_cancelled(earlier, attempt, jobs):
        return past_of(run, one, None)
    state: str | None = "REQUEUED"
    status = None if earlier.job == attempt.job else status_of(earlier.job, jobs or ()) or _accounted(earlier.job)
    if earlier.job == attempt.job or (status is not None and status.restarts > earlier.restarts):
        status = None  # of a later start
        said = f"job {earlier.job} was put back into the queue by Slurm (attempt {earlier.number})"
    else:
        state = status.state if status else None
        said = f"job {earlier.job} (attempt {earlier.number}) ended as {state or 'Slurm does not know any more'}"
    past = past_of(run, one, status)
    past = past if state is None else replace(past, state=state)
    if past.diagnosis is not None and state != "REQUEUED":
        said += f": {past.diagnosis.sentence}"
    details = {"attempt": earlier.number, "state": past.state, "cancelled_by": past.cancelled_by}
    ended = status.ended.timestamp() if status and status.ended else None
    journal.note(attempt.journal, "learned", said, job=attempt.job, ended=ended, **details)
    return past


def _was_cancelled(earlier: Attempt, attempt: Attempt, jobs: tuple[JobStatus, ...] | None) -> bool:
    """By a user, while it was about to end by itself."""
    status = status_of(earlier.job, jobs or ())
    return earlier.job != attempt.job and status is not None and status.state == "CANCELLED"


def _accounted(job: str) -> JobStatus | None:
    try:
        return status_of(job, queue.accounted_jobs([job]))
    except SlurmError:
        return None


def _queue_successor(
    run: RunFolder,
    attempt: Attempt,
    job: str,
    past: Sequence[Past],
    submission: Submission,
    jobs: tuple[JobStatus, ...] | None,
) -> None:
    """Of `job`, which is this attempt's own but where another works on its shard."""
    if waiting := _waiting_successor(run, attempt.shard, job, jobs):
        said = f"job {waiting} waits already"
        journal.note(attempt.journal, "successor", said, job=attempt.job, successor=waiting, after=job)
        return
    if len(past) + 1 >= submission.max_attempts:
        said = f"this is attempt {len(past) + 1} of {submission.max_attempts}, the last that is allowed"
        journal.note(attempt.journal, "no successor", said, job=attempt.job)
        return
    task = attempt.job.partition("_")[2]
    options = [f"--dependency=afternotok:{job}", "--kill-on-invalid-dep=yes", *([f"--array={task}"] if task else [])]
    comment, first_shard = comment_of(run, secrets.token_hex(4)), attempt.shard - int(task or 0)
    said = "asks Slurm for the job that goes on"
    journal.note(attempt.journal, "submitting", said, job=attempt.job, comment=comment, after=job)
    try:
        number = queue.submit(run.script, *options, comment=comment, arguments=arguments(first_shard))
    except SlurmError as problem:
        said = f"no job to continue could be queued: {problem.problem}"
        journal.note(attempt.journal, "no successor", said, job=attempt.job)
        return
    successor = f"{number}_{task}" if task else number
    said = f"job {successor} goes on if {'this one' if job == attempt.job else f'job {job}'} does not come to its end"
    journal.note(attempt.journal, "successor", said, job=attempt.job, successor=successor, after=job)


def _waiting_successor(run: RunFolder, shard: int, job: str, jobs: tuple[JobStatus, ...] | None) -> str | None:
    """That `job` queued before Slurm put it back into the queue, or that was queued for it."""
    waiting = {status.id for status in jobs or () if status.is_pending}
    return next((name for name in reversed(successors(run, shard, job)) if name in waiting), None)


def successors(run: RunFolder, shard: int, job: str) -> list[str]:
    """Jobs that were queued to go on after `job`."""
    entries = journal.read(one.journal for one in attempts_of(run, shard))
    found = [entry.details for entry in entries if entry.event == "successor"]
    return list(dict.fromkeys(details["successor"] for details in found if details["after"] == job))


def final_status(status: int) -> int:
    """The run's own exit status, which is that of the job, by that of its launch."""
    attempt = attempt_of_this_job()
    return status if attempt is None else _final_status(attempt, status)


def end(run: RunFolder, final: int) -> None:
    """Writes down how the work ended; the successor is cancelled where it has nothing to do."""
    attempt = attempt_of_this_job()
    if attempt is None:
        return
    said = _end_said(run, attempt, final)
    journal.note(attempt.journal, "ended", said, job=attempt.job, exit_status=final)
    if final in DONE:
        if waiting := successors(run, attempt.shard, attempt.job):
            _cancel(attempt, waiting, "its work is done")
        return
    past = [past_of(run, one, None) for one in chain_of(told(attempts_of(run, attempt.shard)), attempt.job)]
    if reason := why_not_continue(past, read_submission(run).caps):
        _give_up(run, attempt, reason)


def _final_status(attempt: Attempt, status: int) -> int:
    """By the processes' own words: torchrun makes 1 of every failure, and 0 of every stop and of failed records."""
    worst = worst_outcome(attempt)
    if worst is None:
        return status
    own = max(int(outcome["exit_status"]) for outcome in attempt.outcomes() if outcome["outcome"] == worst["outcome"])
    if worst["outcome"] == "failed" or status in (0, own):
        return own
    return status  # another process ended without a word


def _end_said(run: RunFolder, attempt: Attempt, status: int) -> str:
    worst = worst_outcome(attempt) or {}
    new = f"{count_results(attempt):,} {GAINED[run.unit()]}"
    whole = "; the run is finished" if run.finished() else ""
    if status in DONE:
        return f"done; {new}{whole}"
    if worst.get("outcome") == "stopped" and worst["exit_status"] == status:
        return f"stopped ({worst['reason']}); {new}"
    diagnosis = diagnosis_of(run, attempt, exit_status=status)
    why = f": {diagnosis.sentence}" if diagnosis else ""
    less = "; the next takes half as much at once" if can_take_less(attempt.path) else ""
    return f"ended with exit status {status}{why}; {new}{less}"
