"""What became of runs: from their files, and from one question to Slurm for all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from clusterlm.errors import RunError, SlurmError
from clusterlm.runs import journal
from clusterlm.runs.account import Account, account_of
from clusterlm.runs.diagnosis import Diagnosis
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.past import past_of, status_of
from clusterlm.runs.progress import Progress
from clusterlm.runs.submission import Submission, comment_of, read_submission, was_submitted
from clusterlm.runs.told import Told, attempts_of, told
from clusterlm.slurm import queue
from clusterlm.slurm.jobs import JobStatus
from clusterlm.slurm.reasons import words

Word = Literal["running", "queued", "finished", "interrupted", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run at one moment."""

    run: RunFolder
    asked: dict[str, Any]
    """The content of run.json."""
    state: Word
    account: Account
    attempts: int
    submission: Submission | None = None
    jobs: tuple[JobStatus, ...] = ()
    """Of Slurm, that have not ended."""
    said: str = ""
    """Why it waits or stopped, in words."""
    diagnosis: Diagnosis | None = None

    @property
    def leading(self) -> JobStatus | None:
        """The job that says most of the run: one that runs, else the next to start."""
        running = [job for job in self.jobs if job.is_running]
        return next(iter(running or sorted(self.jobs, key=_expected)), None)


def _expected(job: JobStatus) -> tuple[bool, float]:
    start = job.expected_start
    return start is None, start.timestamp() if start else 0.0


@dataclass(frozen=True)
class _Files:
    """All that a run's folder says."""

    run: RunFolder
    asked: dict[str, Any]
    submission: Submission | None
    attempts: list[Told]
    entries: list[journal.Entry] = field(repr=False)
    numbers: frozenset[str]
    """Of its jobs, that of an array once."""
    finished: Progress | None

    @property
    def over(self) -> set[str]:
        """Jobs that said themselves how they ended, in their last attempt."""
        latest = {one.attempt.job: one for one in self.attempts}
        return {job for job, one in latest.items() if one.ended is not None}


def states(runs: Iterable[RunFolder]) -> tuple[list[RunState], str | None]:
    """Of each run; and what kept Slurm from answering, where it was asked and did not."""
    return _states([_files(run) for run in runs])


def states_of_all(runs: Iterable[RunFolder]) -> tuple[list[RunState], str | None, list[str]]:
    """As states(), and what is wrong with the files of those that are left out."""
    found: list[_Files] = []
    damaged: list[str] = []
    for run in runs:
        try:
            found.append(_files(run))
        except RunError as problem:
            damaged.append(f"{problem.where}: {problem.problem}")
        except (OSError, ValueError, KeyError, TypeError) as problem:
            damaged.append(f"{run.path}: a file of it is damaged: {problem!r}")
    return *_states(found), damaged


def _states(found: Sequence[_Files]) -> tuple[list[RunState], str | None]:
    open_runs = [one for one in found if one.submission is not None and _may_be_active(one)]
    jobs: tuple[JobStatus, ...] = ()
    ended: tuple[JobStatus, ...] = ()
    silent = None
    if open_runs:
        try:
            jobs = queue.queued_jobs()
            if forgotten := _forgotten(open_runs, jobs):
                ended = queue.accounted_jobs(forgotten)
        except SlurmError as problem:
            silent = problem.problem
    return [_state(one, jobs, ended, silent) for one in found], silent


def state_of(run: RunFolder) -> tuple[RunState, str | None]:
    found, silent = states([run])
    return found[0], silent


def _files(run: RunFolder) -> _Files:
    submission = read_submission(run) if was_submitted(run) else None
    attempts = told(attempts_of(run)) if submission else []
    of_jobs = [entry for one in attempts for entry in one.entries]
    entries = sorted([*journal.read([run.journal]), *of_jobs], key=lambda entry: entry.time) if submission else []
    return _Files(
        run=run,
        asked=run.read(),
        submission=submission,
        attempts=attempts,
        entries=entries,
        numbers=numbers_in(entries),
        finished=run.finished(),
    )


def numbers_in(entries: Iterable[journal.Entry]) -> frozenset[str]:
    """Of all jobs that were ever queued for a run; of an array the number that its tasks share."""
    queued = [entry.job for entry in entries if entry.event in ("submitted", "started")]
    after = [entry.details["successor"] for entry in entries if entry.event == "successor"]
    return frozenset(job.split("_")[0] for job in (*queued, *after) if job)


def _may_be_active(one: _Files) -> bool:
    """A finished run whose jobs all said so needs no asking."""
    over = one.over
    return not (one.finished and all(told.attempt.job in over for told in one.attempts))


def _forgotten(open_runs: Sequence[_Files], jobs: Sequence[JobStatus]) -> list[str]:
    """Jobs that began, did not say how they ended, and are not in the queue any more."""
    known = {job.id for job in jobs}
    found = []
    for one in open_runs:
        if not one.finished:
            began = [told.attempt.job for told in one.attempts] or sorted(one.numbers)
            over = one.over
            found += [job for job in began if job not in over and job not in known]
    return list(dict.fromkeys(found))


def active(run: RunFolder, known: Iterable[str], jobs: Sequence[JobStatus]) -> tuple[JobStatus, ...]:
    """Of `jobs`, those of the run that have not ended: by number, or by comment where the number was not heard."""
    numbers, comment = frozenset(known), comment_of(run)
    return tuple(
        job for job in jobs if not job.is_ended and (job.array_id in numbers or job.comment.startswith(comment))
    )


def _state(one: _Files, jobs: Sequence[JobStatus], ended: Sequence[JobStatus], silent: str | None) -> RunState:
    account = account_of(one.run, one.asked, one.attempts, one.finished)
    there = active(one.run, one.numbers, jobs)
    plain = RunState(
        run=one.run,
        asked=one.asked,
        state="interrupted",
        account=account,
        attempts=len(one.run.attempts()),
        submission=one.submission,
        jobs=there,
    )
    if one.submission is None:
        return replace(plain, state=one.run.state())
    if there:
        return _with_slurm(plain)
    if one.finished:
        return replace(plain, state="finished")
    if silent:
        return replace(plain, said=f"not known: {silent}")
    return _over(plain, one, [*jobs, *ended])


def _with_slurm(state: RunState) -> RunState:
    running = [job for job in state.jobs if job.is_running]
    if running:
        return replace(state, state="running")
    leading = state.leading
    assert leading is not None
    return replace(state, state="queued", said=words(leading.reason) if leading.is_pending else leading.state)


def _over(state: RunState, one: _Files, statuses: Sequence[JobStatus]) -> RunState:
    """No job of it is left, and it is not finished: why."""
    decisions = [entry for entry in one.entries if entry.event in ("cancelled", "refused", "submitted", "started")]
    if decisions and decisions[-1].event in ("cancelled", "refused"):
        word: Word = "cancelled" if decisions[-1].event == "cancelled" else "interrupted"
        return replace(state, state=word, said=decisions[-1].said)
    if not one.attempts:
        last = next((status for status in statuses if status.id.split("_")[0] in one.numbers), None)
        said = f"job {last.id} ended before it began: {last.state}" if last else "no job of it is with Slurm"
        return replace(state, state="cancelled" if last and last.state == "CANCELLED" else "interrupted", said=said)
    last_of_each_shard = _last_of_each_shard(one)
    pasts = [past_of(one.run, last, status_of(last.attempt.job, statuses)) for last in last_of_each_shard]
    bad = [past for past in pasts if past.diagnosis is not None]
    if not bad:
        return replace(state, said=f"its jobs are over, and {state.account.unit} are missing")
    worst = bad[-1]
    assert worst.diagnosis is not None
    if worst.diagnosis.cause == "cancelled":
        return replace(state, state="cancelled", said=worst.diagnosis.sentence, diagnosis=worst.diagnosis)
    return replace(state, state="failed", said=worst.diagnosis.sentence, diagnosis=worst.diagnosis)


def _last_of_each_shard(one: _Files) -> list[Told]:
    """Of the last submission: shards of an earlier one were other parts of the input."""
    assert one.submission is not None
    latest = [told for told in one.attempts if told.attempt.shards == one.submission.shards] or one.attempts
    worked = [told for told in latest if told.has_worked]  # else its job says only that others have ended the chain
    return list({told.attempt.shard: told for told in worked or latest}.values())
