"""Window: what is handed out to the engine while there is time, and when there is none left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from clusterlm.worker.admission import Admission
from clusterlm.worker.sequence import Sampling, Sequence
from clusterlm.worker.window import Window


def sequence(index: int, length: int, sample: int = 0) -> Sequence:
    return Sequence(index, sample, [1] * length, length, 5, Sampling(), seed=0)


def indices(rows: list[Sequence]) -> list[int]:
    return [row.request_index for row in rows]


def test_the_shortest_come_first_and_as_many_as_fit() -> None:
    window = Window(iter([sequence(0, 30), sequence(1, 10), sequence(2, 12)]), Admission())
    assert indices(window.take(50, 5)) == [1, 2]
    assert indices(window.take(50, 5)) == [0]
    assert window.take(50, 5) == []
    window.close()


def test_what_was_put_back_goes_before_what_was_never_taken() -> None:
    """Else, over a tight budget, thousands of rows would get a token each in turn, and none would be finished."""
    window = Window(iter([sequence(0, 30), sequence(1, 10), sequence(2, 12)]), Admission())
    window.put_back([sequence(3, 40)])
    assert indices(window.take(50, 5)) == [3]
    assert indices(window.take(50, 5)) == [1, 2]
    window.close()


def test_beside_rows_at_work_none_is_taken_that_does_not_fit() -> None:
    window = Window(iter([sequence(0, 30)]), Admission())
    assert window.take(34, 5, at_least_one=False) == []
    assert indices(window.take(35, 5, at_least_one=False)) == [0]
    window.close()


def test_out_of_time_only_what_was_begun_is_handed_out_with_all_its_samples() -> None:
    reason: list[str] = []
    admission = Admission(must_stop=lambda: reason[0] if reason else None)
    rows = [sequence(0, 10), sequence(1, 20, sample=0), sequence(1, 20, sample=1), sequence(2, 15), sequence(3, 5)]
    window = Window(iter(rows), admission)
    assert indices(window.take(6, 1)) == [3]
    assert indices(window.take(11, 1)) == [0]
    assert indices(window.take(16, 1)) == [2]
    [first_sample] = window.take(21, 1)
    window.put_back(rows[:1])  # over budget: it gave up its place
    window.put_back([sequence(4, 3)])
    reason.append("SIGTERM")
    assert indices(window.take(100, 1)) == [0, 1]
    assert first_sample.request_index == 1
    assert window.take(100, 1) == []
    window.close()


def test_a_stop_is_obeyed_while_the_reading_takes_long() -> None:
    """A continued run passes over millions of finished records before the first missing one."""
    released = threading.Event()

    def slow() -> Iterator[Sequence]:
        released.wait(30)
        yield sequence(0, 1)

    reason: list[str] = []
    window = Window(slow(), Admission(must_stop=lambda: reason[0] if reason else None))
    threading.Timer(0.1, reason.append, ["SIGTERM"]).start()
    begun = time.monotonic()
    assert window.take(100, 1) == []
    assert time.monotonic() - begun < 5
    released.set()
    window.close()
