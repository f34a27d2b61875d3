"""Times as Slurm writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from clusterlm.errors import UsageError
from clusterlm.units import show_slurm_time, slurm_seconds

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # `man sbatch`, --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
        # "days-hours:minutes" and "days-hours:minutes:seconds".
        ("90", 90 * MINUTE),
        ("15:00", 15 * MINUTE),
        ("36:00:00", 36 * HOUR),
        ("2-00", 2 * DAY),
        ("1-12:30", DAY + 12 * HOUR + 30 * MINUTE),
        ("3-01:02:03", 3 * DAY + HOUR + 2 * MINUTE + 3),
    ],
)
def test_every_form_of_time_that_slurm_reads_is_read(text: str, seconds: int) -> None:
    assert slurm_seconds(text) == seconds


@pytest.mark.parametrize("text", ["UNLIMITED", "unlimited", "infinite", "INFINITE"])
def test_no_limit_is_none(text: str) -> None:
    assert slurm_seconds(text) is None
    assert show_slurm_time(None) == "UNLIMITED"


@pytest.mark.parametrize("text", ["", "2 days", "1:2:3:4", "-5", "1-", "36h", "2-00:00:00:00"])
def test_what_slurm_would_not_read_is_refused_with_the_forms_it_reads(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        slurm_seconds(text)
    assert "2-00:00:00" in str(refusal.value)


def test_times_are_shown_as_sinfo_shows_them() -> None:
    assert show_slurm_time(36 * HOUR) == "1-12:00:00"
    assert show_slurm_time(15 * MINUTE) == "00:15:00"
    assert show_slurm_time(2 * DAY) == "2-00:00:00"


@given(some.integers(0, 400 * DAY))
def test_a_time_that_was_shown_is_read_back(seconds: int) -> None:
    assert slurm_seconds(show_slurm_time(seconds)) == seconds
