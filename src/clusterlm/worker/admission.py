"""Admission: whether more records may be begun, so that what is begun ends before the time limit does."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from clusterlm.worker.outcome import TIME_LIMIT

TIMES_LONGEST = 2
"""A record may take so many times what the longest of the recent ones took."""

SECONDS_TO_WRITE = 5
"""For the last results, the account, and the end of the process."""

LEAST_SECONDS = 20
"""With less than this left nothing is begun before it is known how long a record takes."""

RECENT = 256
"""Records that count for how long one takes."""


class Admission:
    """How long each record is at work, from being taken by the engine to its result."""

    def __init__(self, ends: float | None = None, must_stop: Callable[[], str | None] = lambda: None) -> None:
        """`ends`: Unix time of the limit; None: there is none. `must_stop`: why all is to be left as it is, or None."""
        self._asked_to_stop = must_stop
        self.is_out_of_time = False
        self._ends = ends
        self._begun: dict[int, float] = {}
        self._recent: deque[float] = deque(maxlen=RECENT)

    def must_stop(self) -> str | None:
        """Why even what is begun is to be left as it is."""
        if self._ends is not None and time.time() > self._ends - SECONDS_TO_WRITE:
            return self._asked_to_stop() or TIME_LIMIT
        return self._asked_to_stop()

    def is_open(self) -> bool:
        """Whether records that were not begun may be taken."""
        if self._ends is not None:
            self.is_out_of_time = time.time() + self.seconds_needed > self._ends
        return not self.is_out_of_time and not self.must_stop()

    @property
    def seconds_needed(self) -> float:
        """By a record that is begun now."""
        longest = max(self._recent, default=0.0)
        if self._begun:  # the first of them is the oldest
            longest = max(longest, time.monotonic() - next(iter(self._begun.values())))
        needed = TIMES_LONGEST * longest + SECONDS_TO_WRITE
        return needed if self._recent else max(LEAST_SECONDS, needed)

    def begin(self, index: int) -> None:
        self._begun.setdefault(index, time.monotonic())

    def has_begun(self, index: int) -> bool:
        """Whether the record with this index, or one of its samples, is at work or was put back."""
        return index in self._begun

    def finish(self, index: int) -> None:
        self._recent.append(time.monotonic() - self._begun.pop(index))
