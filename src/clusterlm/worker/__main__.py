"""`python -m clusterlm.worker RUN`: works on a run folder; what a job script calls. Plain lines on standard error."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from clusterlm.errors import ClusterlmError
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.worker.job import Interrupted, run_job

SECONDS_BETWEEN_LINES = 10
SOME_FAILED = 3


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        _say("usage: python -m clusterlm.worker RUN")
        return 2
    stop = threading.Event()
    received = [signal.SIGTERM]

    def ask_to_stop(number: int, frame: object) -> None:
        received[0] = signal.Signals(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    try:
        progress = run_job(RunFolder(Path(arguments[0])), _Lines().show, stop.is_set)
    except Interrupted:
        _say("interrupted; the same command continues")
        return 128 + received[0]
    except ClusterlmError as problem:
        _say(f"error: {problem}")
        return problem.exit_code
    return SOME_FAILED if progress.failed else 0


class _Lines:
    """A line now and then: a job's log is read as a file."""

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, progress: Progress) -> None:
        finished = progress.done + progress.failed == progress.requests
        if finished or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            _say(progress.line())


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
