"""What is asked for against what the plan needs: time that is too short, GPUs that would be idle."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.planning.candidates import Candidate
from clusterlm.planning.duration import LOAD_SPREAD
from clusterlm.planning.host import host_items
from clusterlm.planning.places import places
from clusterlm.planning.wishes import Wishes
from clusterlm.runs.order import Order
from clusterlm.units import show_bytes, show_seconds, show_slurm_time

SURE = 2
"""8 of 10 runs take what was predicted, by a factor of the spread; 99 of 100 by its square."""


def of_time(made: Order) -> Iterator[str]:
    """UsageError where a job would end before its first record or step although all went far faster than predicted."""
    duration, submission = made.best.duration, made.submission
    trains = made.best.case.workload.trains
    what, at_once = ("step", "a step") if trains else ("record", "a batch of records")
    limit = -(-made.job.seconds // 60) * 60  # Slurm counts whole minutes
    room = limit - (made.job.signal_seconds or 0)
    load, first = duration.load, _first_seconds(made)
    needs = f"the model takes about {show_seconds(load)} to load, {at_once} {show_seconds(first)}"
    if load / LOAD_SPREAD**SURE + first / duration.pace.spread**SURE > room:
        problem = f"{show_slurm_time(limit)} is over before the first {what} is done: {needs}"
        longer = f"--time {show_slurm_time(duration.asked)}, or leave it to the plan"
        smaller = "a smaller --global-batch-size" if trains else "fewer --max-new-tokens"
        fewer = f"{smaller}, or a --partition with a longer limit"
        raise UsageError(problem, where="--time", hint=longer if duration.asked > limit else fewer)
    if load * LOAD_SPREAD + first * duration.pace.spread > room:
        yield f"a job of {show_slurm_time(limit)} may end before its first {what} is done: {needs}"
    jobs = expected_jobs(made)
    if jobs > 1:
        whose = "a shard" if submission.shards > 1 else "the work"
        takes = f"{whose} takes about {show_seconds(_whole(made))}"
        yield f"{takes}, and a job ends after {show_slurm_time(limit)}: about {jobs:,} jobs, each continues the last"
    if jobs > submission.max_attempts:
        yield f"--max-attempts {submission.max_attempts} will stop it before its end: it needs about {jobs:,}"
    if submission.max_seconds is not None and submission.max_seconds < _whole(made):
        hours = submission.max_seconds / 3600
        yield f"--max-hours {hours:g} will stop it before its end: it takes about {show_seconds(_whole(made))}"


def _first_seconds(made: Order) -> float:
    """Of what is kept or lost as a whole. The plan counts steps of full rows: short texts make many small ones."""
    duration = made.best.duration
    if made.steps is None:
        return duration.pace.step_seconds
    return min(duration.pace.step_seconds, (duration.middle - duration.jobs * duration.load) / made.steps)


def expected_jobs(made: Order) -> int:
    """One after the other, for a shard: by the middle of the prediction; all of them load the model."""
    duration, seconds = made.best.duration, made.job.seconds
    if seconds >= duration.asked:
        return duration.jobs
    work = duration.middle - duration.jobs * duration.load
    if duration.load + work <= seconds:
        return 1
    room = max(seconds - 2 * duration.load, seconds / 10)
    return max(2, math.ceil(work / room))


def _whole(made: Order) -> float:
    """Seconds of a shard's jobs together."""
    duration = made.best.duration
    return duration.middle + (expected_jobs(made) - duration.jobs) * duration.load


def of_ram(made: Order) -> Iterator[str]:
    """What leaves the GPUs must be somewhere; where the profile knows the RAM of a node, the plan has seen to it."""
    best = made.best
    strategy = best.case.strategy
    if strategy.offload == "none" or best.place.host_bytes(strategy.gpus) is not None:
        return
    needed = sum(item.bytes for item in host_items(best.case.shape, best.case.workload, strategy))
    yield f"it offloads to the RAM of each node, {show_bytes(needed)}: the profile does not say how much there is"


def of_idle_gpus(made: Order) -> Iterator[str]:
    best = made.best
    if not best.idle_gpus:
        return
    unit, place = best.place.node.unit, best.place
    idle = f"{best.idle_gpus:,} of the {best.allocated_gpus:,} {unit}s that a job gets and pays for stay idle"
    why = f"{place.partition_name} gives whole nodes of {place.node.gpus}"
    each = best.case.strategy.gpus // best.way.count_of_copies
    ways_out = [f"--copies {best.allocated_gpus // each} uses them" if best.allocated_gpus // each > 1 else ""]
    if best.case.workload.trains:
        ways_out = [f"--gpus {best.allocated_gpus} uses them"]
    if parts := _partitions_of_parts(best):
        ways_out.append(f"--partition {parts[0]} gives parts of a node")
    ways_out = [way for way in ways_out if way]
    yield f"{idle}: {why}" + (f"; {', '.join(ways_out)}" if ways_out else "")


def _partitions_of_parts(best: Candidate) -> list[str]:
    """Where as many of the same GPUs can be had alone."""
    try:
        everywhere = places(best.place.cluster, Wishes(gpu=best.place.gpu.key))
    except ClusterlmError:
        return []
    wanted = best.case.strategy.gpus
    able = (place for place in everywhere if not place.partition.whole_nodes and place.allows(wanted))
    return [place.partition_name for place in able if place.node_name == best.place.node_name]
