"""Duration: how long a whole job takes, as an interval, and the time to ask Slurm for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clusterlm.planning.case import Case
from clusterlm.planning.places import Place
from clusterlm.planning.speed import Pace, load_seconds, pace

RESERVE = 1.1
"""Asked for beyond the upper end of the interval: the end of the interval is passed by one run in ten."""
ROUNDED_TO = ((2 * 3600, 600), (12 * 3600, 1800), (None, 3600))
"""Up to 2 h whole 10 minutes are asked for, up to 12 h half hours, then hours."""


LOAD_SPREAD = 1.5
"""Of the time to load: how busy the file system is decides, which no plan knows."""
LEAST_SHARE = 0.25
"""Of a job's time limit that must be left for work, or there is no use in a chain of such jobs."""


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


def duration_of(speed: Speed, rounds: int, limit: int | None) -> Duration:
    """`rounds`: optimizer steps, or batches one after the other; `limit`: longest seconds of one job."""
    work = rounds * speed.pace.step_seconds
    spread, load = speed.pace.spread, speed.load
    longest = (load * LOAD_SPREAD + work * spread) * RESERVE
    asked, jobs = _rounded(longest), 1
    if limit is not None and asked > limit:
        asked = limit
        if longest > limit:
            jobs = max(2, math.ceil(work * spread / time_for_work(speed, limit)))
    return Duration(
        low=jobs * load / LOAD_SPREAD + work / spread,
        middle=jobs * load + work,
        high=jobs * load * LOAD_SPREAD + work * spread,
        load=load,
        jobs=jobs,
        asked=asked,
        pace=speed.pace,
    )


def time_for_work(speed: Speed, limit: int) -> float:
    """Of one job in a chain: it stops taking work as long before its end as it took to load, to save what it has."""
    return limit - 2 * speed.load


def is_too_short(speed: Speed, limit: int | None) -> bool:
    return limit is not None and time_for_work(speed, limit) < LEAST_SHARE * limit


def _rounded(seconds: float) -> int:
    step = next(step for up_to, step in ROUNDED_TO if up_to is None or seconds <= up_to)
    return -int(-seconds // step) * step
