"""Duration: how long a whole job takes, as an interval, and the time to ask Slurm for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterlm.planning.amount import Amount
from clusterlm.planning.case import Case
from clusterlm.planning.places import Place
from clusterlm.planning.speed import Pace, load_seconds, pace

RESERVE = 1.1
"""Asked for beyond the upper end of the interval: the end of the interval is passed by one run in ten."""
ROUNDED_TO = ((2 * 3600, 600), (12 * 3600, 1800), (None, 3600))
"""Up to 2 h whole 10 minutes are asked for, up to 12 h half hours, then hours."""


@dataclass(frozen=True)
class Duration:
    """Seconds of all its jobs together, their loading included; in 8 of 10 runs between `low` and `high`."""

    low: float
    middle: float
    high: float
    load: float
    """Of one job, before it computes."""
    jobs: int
    """One after the other, where one would pass the partition's time limit."""
    asked: int
    """What each job asks for as its time limit."""
    pace: Pace


@dataclass(frozen=True)
class Speed:
    """Of a case at its place, whatever the time limit is."""

    pace: Pace
    load: float

    def of_copies(self, count: int) -> Speed:
        """Copies that do not train work side by side."""
        if count == 1:
            return self
        return Speed(replace(self.pace, tokens_per_second=count * self.pace.tokens_per_second), self.load)


def speed_of(case: Case, place: Place) -> Speed:
    return Speed(pace(case, place.links), load_seconds(case, place.links))


def duration_of(speed: Speed, amount: Amount, limit: int | None) -> Duration:
    """`limit`: longest seconds of one job; None where there is none."""
    work = amount.tokens / speed.pace.tokens_per_second
    spread, load = speed.pace.spread, speed.load
    longest = load + work * spread
    asked = _rounded(longest * RESERVE)
    jobs = 1
    if limit is not None and asked > limit:
        asked = limit
        if longest * RESERVE > limit:
            # Each job stops taking work as long before its end as it took to load, to save what it has.
            jobs = max(2, -(-int(work * spread) // max(1, int(limit - 2 * load))))
    return Duration(
        low=jobs * load + work / spread,
        middle=jobs * load + work,
        high=jobs * load + work * spread,
        load=load,
        jobs=jobs,
        asked=asked,
        pace=speed.pace,
    )


def _rounded(seconds: float) -> int:
    step = next(step for up_to, step in ROUNDED_TO if up_to is None or seconds <= up_to)
    return -int(-seconds // step) * step
