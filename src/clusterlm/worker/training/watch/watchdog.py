"""Watchdog: ends a process in which nothing moves any more, so that its job ends too, and the next one goes on."""

from __future__ import annotations

import faulthandler
import math
import sys
import threading
from collections.abc import Callable
from types import TracebackType

LEAST_SECONDS = 600.0
TIMES_LONGEST = 10
TICKS = 600
"""In the shortest time that it waits."""


class Watchdog:
    """Counts its own wake-ups, not the clock: a process that was suspended for an hour has not hung."""

    def __init__(self, give_up: Callable[[str], object], least_seconds: float = LEAST_SECONDS) -> None:
        """`give_up` is called with what is wrong, when the stacks of all threads are on standard error."""
        self._give_up = give_up
        self._least = least_seconds
        self._limit = math.inf
        self._tick = least_seconds / TICKS
        self._longest = 0.0
        self._waited = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def moved(self, allowed: float = 0.0) -> None:
        """Something was done; from the first time on it is watched.

        What is next may take as long as `allowed` seconds, should that be more than usual.
        """
        self._longest = max(self._longest, self._waited)
        self._waited = 0.0
        self._limit = max(self._least, TIMES_LONGEST * self._longest, allowed)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: object, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._tick):
            self._waited += self._tick
            if self._waited > self._limit:
                faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
                self._give_up(f"nothing has moved for {self._limit:,.0f} seconds: no step, no checkpoint")
                return
