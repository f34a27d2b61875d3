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
from clusterlm.runs.attempt import Attempt, attempt_of_this_job
from clusterlm.runs.chain import Past, why_not_continue
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.past import count_results, diagnosis_of, past_of, status_of, worst_outcome
from clusterlm.runs.submission import Submission, arguments, comment_of, read_submission
from clusterlm.runs.told import Told, attempts_of, told
from clusterlm.slurm import queue
from clusterlm.slurm.here import ThisJob, this_job
from clusterlm.slurm.jobs import JobStatus

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
    before = attempts_of(run, shard)
    attempt = _begun(run, here, shard, submission, jobs)
    past = [_learned(run, attempt, one, jobs) for one in told(before)]
    if reason := why_not_continue(past, submission.caps):
        journal.note(attempt.journal, "given up", f"not continued: {reason}", job=here.id)
        raise RunError(f"not continued: {reason}", where=str(run.path), hint=f"clusterlm runs resume {run.name}")
    at_work = _at_work(before, here.id, jobs)
    _queue_successor(run, attempt, at_work or here.id, past, submission, jobs)
    if at_work is not None:
        said = f"job {at_work} works on this already"
        journal.note(attempt.journal, "given up", said, job=here.id)
        raise RunError(said, where=str(run.path), hint="nothing is lost: that job, or the one after it, finishes")
    return attempt


def _at_work(before: Sequence[Attempt], job: str, jobs: tuple[JobStatus, ...] | None) -> str | None:
    """Another job on the same shard. Slurm may start a successor although it puts the job before it into the queue
    again; of the two, the one that began first works.
    """
    running = {status.id for status in jobs or () if status.state == "RUNNING"}
    return next((one.job for one in before if one.job != job and one.job in running), None)


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
    again = f", put back into the queue {here.restarts} times" if here.restarts else ""
    journal.note(attempt.journal, "started", f"works{part} on {here.node_list}{again}", job=here.id, shard=shard)
    return attempt


def _end_of(own: JobStatus | None) -> float | None:
    if own is None or own.started is None or own.limit_seconds is None:
        return None
    return own.started.timestamp() + own.limit_seconds


def _learned(run: RunFolder, attempt: Attempt, one: Told, jobs: tuple[JobStatus, ...] | None) -> Past:
    """The past of an earlier attempt; what Slurm says of its end is written down, for Slurm forgets it."""
    if not one.wants_asking:
        return past_of(run, one, None)
    earlier = one.attempt
    status: JobStatus | None = None
    state: str | None = "REQUEUED"
    if earlier.job == attempt.job:
        said = f"job {earlier.job} was put back into the queue by Slurm (attempt {earlier.number})"
    else:
        status = status_of(earlier.job, jobs or ()) or _accounted(earlier.job)
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
    token, first_shard = secrets.token_hex(4), attempt.shard - int(task or 0)
    try:
        number = queue.submit(run.script, *options, comment=comment_of(run, token), arguments=arguments(first_shard))
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


def end(run: RunFolder, status: int) -> int:
    """The run's own exit status, which is that of the job; the successor is cancelled where it has nothing to do."""
    attempt = attempt_of_this_job()
    if attempt is None:
        return status
    final = _final_status(attempt, status)
    said = _end_said(run, attempt, final)
    journal.note(attempt.journal, "ended", said, job=attempt.job, exit_status=final)
    past = [past_of(run, one, None) for one in told(attempts_of(run, attempt.shard))]
    reason = "its work is done" if final in DONE else why_not_continue(past, read_submission(run).caps)
    waiting = successors(run, attempt.shard, attempt.job)
    if reason is not None and waiting:
        queue.cancel(waiting)
        said = f"job {', '.join(waiting)} is not needed: {reason}"
        journal.note(attempt.journal, "successor cancelled", said, job=attempt.job, successors=waiting)
    if reason is not None and final not in DONE:
        journal.note(attempt.journal, "given up", f"not continued: {reason}", job=attempt.job)
    return final


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
    new, whole = f"{count_results(attempt):,} new results", "; the run is finished" if run.finished() else ""
    if status in DONE:
        return f"done; {new}{whole}"
    if worst.get("outcome") == "stopped" and worst["exit_status"] == status:
        return f"stopped ({worst['reason']}); {new}"
    diagnosis = diagnosis_of(run, attempt, exit_status=status)
    why = f": {diagnosis.sentence}" if diagnosis else ""
    return f"ended with exit status {status}{why}; {new}"
