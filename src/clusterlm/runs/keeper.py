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
from clusterlm.runs.past import Told, attempts_of, past_of, status_of, told, worst_outcome
from clusterlm.runs.submission import Submission, comment_of, read_submission
from clusterlm.slurm import queue
from clusterlm.slurm.here import ThisJob, this_job
from clusterlm.slurm.jobs import JobStatus

DONE = (0, 3)
"""Exit statuses with which there is nothing left to do: all records are done, or those that failed will fail again."""
FIRST_SHARD = "CLUSTERLM_FIRST_SHARD"
"""Of an array that is not the first of its run: Slurm's arrays may be too short for all shards."""


def begin(run: RunFolder, first_shard: int = 0) -> Attempt:
    """The attempt of this job, its successor queued. RunError where the chain ends here."""
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
    _queue_successor(run, attempt, past, submission, jobs, first_shard)
    return attempt


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
    past: Sequence[Past],
    submission: Submission,
    jobs: tuple[JobStatus, ...] | None,
    first_shard: int,
) -> None:
    if waiting := _waiting_successor(run, attempt, jobs):
        journal.note(attempt.journal, "successor", f"job {waiting} waits already", job=attempt.job, successor=waiting)
        return
    if len(past) + 1 >= submission.max_attempts:
        said = f"this is attempt {len(past) + 1} of {submission.max_attempts}, the last that is allowed"
        journal.note(attempt.journal, "no successor", said, job=attempt.job)
        return
    options = [f"--dependency=afternotok:{attempt.job}", "--kill-on-invalid-dep=yes"]
    if "_" in attempt.job:
        options += [f"--array={attempt.shard - first_shard}"]
    token = secrets.token_hex(4)
    try:
        number = queue.submit(run.script, *options, comment=comment_of(run, token))
    except SlurmError as problem:
        said = f"no job to continue could be queued: {problem.problem}"
        journal.note(attempt.journal, "no successor", said, job=attempt.job)
        return
    successor = f"{number}_{attempt.shard - first_shard}" if "_" in attempt.job else number
    said = f"job {successor} goes on if this one does not come to its end"
    journal.note(attempt.journal, "successor", said, job=attempt.job, successor=successor)


def _waiting_successor(run: RunFolder, attempt: Attempt, jobs: tuple[JobStatus, ...] | None) -> str | None:
    """Of the same job before Slurm put it back into the queue."""
    earlier = [one for one in attempts_of(run, attempt.shard) if one.job == attempt.job and one != attempt]
    waiting = {status.id for status in jobs or () if status.is_pending}
    names = [name for one in earlier for name in successors(one)]
    return next((name for name in reversed(names) if name in waiting), None)


def successors(attempt: Attempt) -> list[str]:
    """Jobs that it queued to go on after it."""
    entries = journal.read([attempt.journal])
    return list(dict.fromkeys(entry.details["successor"] for entry in entries if entry.event == "successor"))


def end(run: RunFolder, status: int) -> int:
    """The run's own exit status, which is that of the job; the successor is cancelled where it has nothing to do."""
    attempt = attempt_of_this_job()
    if attempt is None:
        return status
    final = _final_status(attempt, status)
    journal.note(attempt.journal, "ended", _end_said(run, attempt, final), job=attempt.job, exit_status=final)
    past = [past_of(run, one, None) for one in told(attempts_of(run, attempt.shard))]
    reason = "its work is done" if final in DONE else why_not_continue(past, read_submission(run).caps)
    waiting = successors(attempt)
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
    new = sum(int(outcome["new_results"]) for outcome in attempt.outcomes())
    how = {"stopped": f"stopped ({worst.get('reason')})", "failed": f"failed: {worst.get('problem')}"}
    said = how.get(str(worst.get("outcome")), "done" if status in DONE else f"ended with exit status {status}")
    whole = "; the run is finished" if run.finished() else ""
    return f"{said}; {new:,} new results{whole}"
