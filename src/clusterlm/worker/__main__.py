"""`python -m clusterlm.worker RUN`: works on a run folder; what a job script calls. Plain lines on standard error.

Exit status: 0 done; 3 done, some records failed; 75 no time for the rest; 128 + signal; 1 or 2 an error to be mended;
70 an unexpected one. Of several ranks each that did not fail exits with 0, for torchrun ends all when one does not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from clusterlm.errors import ClusterlmError
from clusterlm.runs.attempt import Attempt, attempt_of_this_job
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.worker.outcome import Interrupted, Outcome, failed, finished, stopped
from clusterlm.worker.place import Place
from clusterlm.worker.ranks import Ranks, ranks_of_this_job, share_node, share_threads
from clusterlm.worker.signals import Signals

if TYPE_CHECKING:
    from clusterlm.worker.meeting import Meeting

SECONDS_BETWEEN_LINES = 10
SECONDS_OF_AN_EXCHANGE = 1800
"""In a training: loading and saving of one process keep the others waiting."""
NOT_BEGUN = Progress(requests=0, done=0, failed=0, new_results=0, new_tokens=0, seconds=0)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        _say("usage: python -m clusterlm.worker RUN")
        return 2
    signals = Signals()
    signals.install()
    try:
        attempt = attempt_of_this_job()
        process = _Process(RunFolder(Path(arguments[0])), attempt, signals)
    except ClusterlmError as problem:
        _say(f"error: {problem}")
        return problem.exit_code
    signals.ends = attempt.ends if attempt else None
    signals.leave_by(process.leave)
    return process.run()


class _Process:
    """One process of a job, or one that was started by hand."""

    def __init__(self, run: RunFolder, attempt: Attempt | None, signals: Signals) -> None:
        self.is_training = run.task() == "train"
        # Each of several generations that a user starts by hand does all of it; a training is shared by all.
        self.ranks = ranks_of_this_job() if attempt is not None or self.is_training else Ranks()
        self.place = Place(run, attempt, self.ranks)
        self.signals = signals
        self.meeting: Meeting | None = None
        self.progress = NOT_BEGUN
        self._told = 0.0

    def run(self) -> int:
        try:
            outcome = self._work()
        except ClusterlmError as problem:
            _say(f"error: {problem}")
            outcome = failed(problem, self.progress)
        except Exception as problem:  # noqa: BLE001 whatever it was, the job must be able to say it
            traceback.print_exc()
            outcome = failed(problem, self.progress)
        self.signals.wait_for_step()  # nothing is left to be interrupted
        self._write(outcome)
        if self.meeting is not None and outcome.outcome != "failed":
            self.meeting.leave()
        return self._exit_status(outcome)

    def leave(self, number: signal.Signals) -> NoReturn:
        """At once: nothing was begun, and importing or loading may take minutes."""
        outcome = stopped(number.name, self.progress)
        _say(f"stopped before it began: {number.name}")
        self._write(outcome)
        if self.meeting is not None:
            self.meeting.tell(number)
        os._exit(self._exit_status(outcome))

    def _work(self) -> Outcome:
        try:
            return self._train() if self.is_training else self._answer()
        except Interrupted as stop:
            safe = "a checkpoint is saved" if self.is_training else "finished records are safe"
            _say(f"interrupted ({stop.reason}); {safe}, and the same command continues")
            return stopped(stop.reason, self.progress)

    def _train(self) -> Outcome:
        share_threads(self.ranks)
        from clusterlm.worker.training.job import run_training
        from clusterlm.worker.training.start import backend, prepare_process

        prepare_process(self.ranks)
        self._meet(backend(), SECONDS_OF_AN_EXCHANGE)
        progress = run_training(self.place, self._show, self.signals.reason, self.signals.wait_for_step, _say)
        return finished(progress)

    def _answer(self) -> Outcome:
        share_node(self.ranks)
        # Importing torch takes seconds, and it reads then which devices it may use.
        from clusterlm.worker.job import run_part

        self._meet()
        done = run_part(self.place, self._show, self.signals.reason, self.signals.wait_for_step)
        if done.elsewhere:
            others = "shards" if self.place.part.shards > 1 else "ranks"
            _say(f"part done, {done.elsewhere:,} records are with other {others}")
        return finished(done.progress)

    def _meet(self, *settings: Any) -> None:
        if self.ranks.is_alone:
            return
        from clusterlm.worker.meeting import Meeting

        self.meeting = Meeting(self.ranks, lambda: self.signals.first, *settings)
        _say(self.meeting.place)

    def _show(self, progress: Progress) -> None:
        """A line now and then: a job's log is read as a file."""
        self.progress = progress
        if self.is_training and self.ranks.rank > 0:
            return  # they are all at the same step
        is_finished = progress.done + progress.failed == progress.requests
        if is_finished or time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            _say(progress.line())

    def _write(self, outcome: Outcome) -> None:
        file = self.place.outcome_file()
        if file is None:
            return
        try:
            outcome.write(file)
        except (ClusterlmError, OSError) as problem:
            _say(f"how this process ended cannot be written down: {problem}")

    def _exit_status(self, outcome: Outcome) -> int:
        if not self.ranks.is_alone and outcome.outcome != "failed":
            return 0
        return outcome.exit_status


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
