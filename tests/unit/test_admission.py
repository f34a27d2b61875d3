"""Admission: records are begun as long as there is time to finish them, by what the recent ones took."""

from __future__ import annotations

import time

import pytest

from clusterlm.worker.admission import Admission

NOW = 1_000_000.0


class Clock:
    """Of the machine, moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def taken(admission: Admission, clock: Clock, index: int, seconds: float) -> None:
    admission.begin(index)
    clock.now += seconds
    admission.finish(index)


def test_without_a_limit_it_is_always_open(clock: Clock) -> None:
    admission = Admission()
    taken(admission, clock, 0, 1e6)
    assert admission.is_open()


@pytest.mark.parametrize(("seconds_left", "is_open"), [(20.1, True), (19.9, False)])
def test_before_anything_was_measured_twenty_seconds_are_enough(
    clock: Clock, seconds_left: float, is_open: bool
) -> None:
    admission = Admission(NOW + seconds_left)
    assert admission.is_open() == is_open
    assert admission.is_out_of_time != is_open


def test_the_longest_record_fits_twice_and_five_seconds_are_for_writing(clock: Clock) -> None:
    admission = Admission(NOW + 1000)
    for index, seconds in enumerate((10, 100, 30)):
        taken(admission, clock, index, seconds)
    clock.now = NOW + 1000 - 205.1
    assert admission.is_open()
    clock.now = NOW + 1000 - 204.9
    assert not admission.is_open()


def test_what_is_begun_is_left_when_only_the_time_to_write_is_left(clock: Clock) -> None:
    admission = Admission(NOW + 1000)
    admission.begin(0)
    clock.now = NOW + 1000 - 5.1
    assert admission.must_stop() is None
    clock.now = NOW + 1000 - 4.9
    assert admission.must_stop() == "time limit"


def test_a_signal_is_the_reason_to_stop_whatever_the_time(clock: Clock) -> None:
    assert Admission(NOW + 1, lambda: "SIGTERM").must_stop() == "SIGTERM"


def test_a_record_at_work_counts_for_as_long_as_it_has_taken_already(clock: Clock) -> None:
    """With records of ten minutes none is finished when an hour's last quarter begins."""
    admission = Admission(NOW + 3600)
    taken(admission, clock, 0, 1)
    admission.begin(1)
    clock.now += 1000
    assert admission.seconds_needed == 2 * 1000 + 5
    admission.begin(2)
    clock.now += 1000
    admission.finish(1)
    assert admission.seconds_needed == 2 * 2000 + 5


def test_a_long_record_counts_no_more_after_256_others(clock: Clock) -> None:
    admission = Admission(NOW + 1e9)
    taken(admission, clock, 0, 5000)
    for index in range(1, 257):
        taken(admission, clock, index, 2)
    assert admission.seconds_needed == 2 * 2 + 5


def test_a_record_put_back_counts_from_when_it_was_first_taken(clock: Clock) -> None:
    admission = Admission(NOW + 1e9)
    admission.begin(7)
    clock.now += 10
    admission.begin(7)
    assert admission.has_begun(7)
    clock.now += 10
    admission.finish(7)
    assert not admission.has_begun(7)
    assert admission.seconds_needed == 2 * 20 + 5


def test_whoever_must_stop_begins_nothing_and_is_not_out_of_time() -> None:
    admission = Admission(must_stop=lambda: "SIGTERM")
    assert not admission.is_open()
    assert not admission.is_out_of_time
