"""Doing a run here, seen: progress while it goes, signals, and the account at its end."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from clusterlm.cli.models import find
from clusterlm.runs.folder import RunFolder, folder_for
from clusterlm.runs.launch import Prepared, prepare
from clusterlm.runs.progress import Progress
from clusterlm.runs.submission import was_submitted
from clusterlm.runs.submit import refuse_second
from clusterlm.slurm import client
from clusterlm.spec import STANDARD_STREAM, GenerateSpec
from clusterlm.units import show_seconds

SECONDS_BETWEEN_LINES = 10
SOME_FAILED = 3
SHOWN_FAILURES = 3


def work(spec: GenerateSpec, *, restart: bool = False) -> int:
    """Prepare the run and work on it; the exit status."""
    _refuse_beside_jobs(folder_for(spec))
    prepared = prepare(spec, lambda: find(spec), restart=restart)
    if prepared.finished_before:
        _say(f"{prepared.finished_before:,} of {prepared.requests:,} records are done already; continuing")
    screen = _Screen()
    with _stopping() as stop:
        from clusterlm.worker.job import Interrupted, run_job

        if prepared.finished_before < prepared.requests:
            _say(f"loading {spec.model}")
        try:
            progress = run_job(prepared.run, screen.show, lambda: stop[0].name if stop else None)
        except Interrupted:
            screen.end()
            _say(f"interrupted ({stop[0].name}); finished records are safe. The same command continues.")
            return 128 + stop[0]
        finally:
            screen.end()
    _report(spec, prepared, progress)
    return SOME_FAILED if progress.failed else 0


def _refuse_beside_jobs(run: RunFolder) -> None:
    """Where there is no Slurm to ask, a run that was brought here goes on."""
    if was_submitted(run) and not client.is_here():
        _say("it had jobs, and there is no Slurm here to ask for them: if one still runs, the work is done twice")
    else:
        refuse_second(run)


@contextmanager
def _stopping() -> Iterator[list[signal.Signals]]:
    """The signals that came. The first asks to stop between two steps; a second one ends the process as usual."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for again, handler in before.items():
            signal.signal(again, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Screen:
    """One line that changes, or, where nobody watches, a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = 0.0
        self._open = False

    def show(self, progress: Progress) -> None:
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[2K{progress.line()}")
            sys.stderr.flush()
            self._open = True
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            _say(progress.line())

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def _report(spec: GenerateSpec, prepared: Prepared, progress: Progress) -> None:
    account = f"{progress.requests:,} in = {progress.done:,} done + {progress.failed:,} failed"
    if progress.new_results:
        account += f" ({show_seconds(progress.seconds)}, {progress.tokens_per_second:,.0f} tokens/s)"
    _say(account)
    if progress.failed:
        from clusterlm.records.log import ResultLog

        with ResultLog(None, prepared.run.result_files()) as log:
            for result in log.failures(SHOWN_FAILURES):
                _say(f"  failed: {result.id}: {result.error}")
        if progress.failed > SHOWN_FAILURES:
            _say(f"  and {progress.failed - SHOWN_FAILURES:,} more: see 'error' in the answers")
    if spec.output != STANDARD_STREAM:
        _say(f"answers:    {spec.output}")
    _say(f"run folder: {prepared.run.path}")


def _say(text: str) -> None:
    click.echo(text, err=True)
