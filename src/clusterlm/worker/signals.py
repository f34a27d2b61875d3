"""The signals that ask to stop: obeyed between two steps, and before the first step at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

ASKING_TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Slurm sends USR1 where the batch script asks for a warning, TERM at a cancel, a preemption and the time limit."""

WARNED_SECONDS = 200
"""So long before a job's end its warning comes at the earliest: 120 are asked for, and Slurm may be 60 early.
Source: `man sbatch`, --signal."""


class Signals:
    """The first that came counts; those behind it do not break the clean stop that it began."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.ends: float | None = None
        """Unix time of the job's end. Who knows it needs no warning of it, and does not stop a minute early."""
        self._leave: Callable[[signal.Signals], object] | None = None

    def install(self) -> None:
        for number in ASKING_TO_STOP:
            signal.signal(number, self._note)

    def leave_by(self, leave: Callable[[signal.Signals], object]) -> None:
        """Until there is something to lose: `leave` ends the process, in the midst of an import if need be."""
        self._leave = leave
        if self.first is not None:
            leave(self.first)

    def wait_for_step(self) -> None:
        """From now on a signal is only noted."""
        self._leave = None

    def reason(self) -> str | None:
        """The name of the signal that came."""
        return self.first.name if self.first is not None else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first is None and not self._is_known(signal.Signals(number)):
            self.first = signal.Signals(number)
            if self._leave is not None:
                self._leave(self.first)

    def _is_known(self, number: signal.Signals) -> bool:
        """Whether it only says that the time limit is near: the worker's own clock is more exact."""
        is_warning = number is signal.SIGUSR1 and self.ends is not None
        return is_warning and (self.ends or 0) - time.time() < WARNED_SECONDS
