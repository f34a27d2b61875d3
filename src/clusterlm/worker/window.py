"""Window: the next requests, read and tokenised ahead by a thread, handed out in groups of similar length."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator

from clusterlm.worker.admission import Admission
from clusterlm.worker.sequence import Sequence

PREFILL_TOKENS = 4096
"""Prompt tokens computed at once: enough to fill the arithmetic units, little enough for the memory of activations."""

MOST_ROWS = 512
"""More rows in one step do not make it more efficient, and their logits take memory."""

WINDOW_ROWS = 4096
"""Read ahead so far: among so many there are enough of every length."""

SECONDS_BETWEEN_LOOKS = 0.2
"""While it waits for the reading: at whether there is still time to begin."""


class Window:
    """Sorted by length, shortest first. An exception of the source is raised to whoever takes next."""

    def __init__(self, source: Iterator[Sequence], admission: Admission) -> None:
        self._source = source
        self._admission = admission
        self._sorted: list[Sequence] = []
        self._returned: list[Sequence] = []
        """Taken before and put back: they go first, or every row would get a token in turn and none be finished."""
        self._changed = threading.Condition()
        self._exhausted = False
        self._closed = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._fill, name="read ahead", daemon=True)
        self._thread.start()

    def take(self, room_tokens: int, spare_tokens: int, *, at_least_one: bool = True) -> list[Sequence]:
        """Some of similar length, each with `spare_tokens` to grow; [] when there are no more.

        `at_least_one`: though it may not fit. Where no record may be begun any more, only rows of those that were.
        """
        with self._changed:
            while not self._is_filled and self._admission.is_open():
                self._changed.wait(SECONDS_BETWEEN_LOOKS)
            if self._problem is not None:
                raise self._problem
            waiting = self._returned or self._sorted
            if not self._admission.is_open():
                waiting = [row for row in self._returned + self._sorted if self._admission.has_begun(row.request_index)]
                waiting.sort(key=_length)
            rows = _rows_that_fit([len(row.tokens) for row in waiting[:MOST_ROWS]], room_tokens, spare_tokens)
            if not at_least_one and waiting and len(waiting[0].tokens) + spare_tokens > room_tokens:
                rows = 0
            taken = self._hand_out(waiting[:rows])
            self._changed.notify_all()
        return taken

    def must_stop(self) -> bool:
        return bool(self._admission.must_stop())

    def put_back(self, sequences: list[Sequence]) -> None:
        with self._changed:
            for sequence in sequences:
                _insert(self._returned, sequence)

    def close(self) -> None:
        """End the thread, whether or not it has read all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _is_filled(self) -> bool:
        return self._exhausted or len(self._sorted) >= WINDOW_ROWS // 2

    def _hand_out(self, rows: list[Sequence]) -> list[Sequence]:
        for row in rows:
            self._admission.begin(row.request_index)
        if rows == self._sorted[: len(rows)]:
            self._sorted = self._sorted[len(rows) :]
        else:
            handed_out = set(map(id, rows))
            self._returned = [row for row in self._returned if id(row) not in handed_out]
            self._sorted = [row for row in self._sorted if id(row) not in handed_out]
        return rows

    def _fill(self) -> None:
        try:
            for sequence in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._sorted) < WINDOW_ROWS)
                    if self._closed:
                        return
                    _insert(self._sorted, sequence)
                    self._changed.notify_all()
        except BaseException as problem:  # noqa: BLE001 a thread's exception would be lost: take() raises it
            self._problem = problem
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()


def _insert(rows: list[Sequence], sequence: Sequence) -> None:
    bisect.insort(rows, sequence, key=_length)


def _length(row: Sequence) -> int:
    return len(row.tokens)


def _rows_that_fit(lengths: list[int], room_tokens: int, spare_tokens: int) -> int:
    """How many of the shortest rows fit together; every row takes as much as the longest of them. At least one."""
    rows = 0
    for rows_so_far, length in enumerate(lengths, start=1):
        fits = rows_so_far * (length + spare_tokens) <= room_tokens and rows_so_far * length <= PREFILL_TOKENS
        if rows_so_far > 1 and not fits:
            break
        rows = rows_so_far
    return rows
