"""What a run that is done here shows while it goes, and the signals that ask it to stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from clusterlm.runs.progress import Progress

SECONDS_BETWEEN_LINES = 10


@contextmanager
def stopping(
    at_once: Callable[[signal.Signals], object] = lambda number: None,
) -> Iterator[list[signal.Signals]]:
    """The signals that came. The first asks to stop between two steps; a second one ends the process as usual.

    `at_once` is called with the first one as it comes: where nothing is begun yet, it may end the process.
    """
    from clusterlm.worker.signals import ASKING_TO_STOP

    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in ASKING_TO_STOP}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for again, handler in before.items():
            signal.signal(again, handler)
        at_once(signal.Signals(number))

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Screen:
    """One line that changes, or, where nobody watches, a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._last = 0.0
        self._open = False

    def show(self, progress: Progress) -> None:
        if self._is_terminal:
            # What is wider would go on in the next line, and stay there.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns  # 0 where the terminal does not say
            sys.stderr.write(f"\r\x1b[2K{progress.line()[: columns - 1 if columns else None]}")
            sys.stderr.flush()
            self._open = True
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            say(progress.line())

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def say(text: str) -> None:
    click.echo(text, err=True)
