"""How many jobs a run makes, and how many its site lets a user have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clusterlm.cluster import Cluster
from clusterlm.errors import SlurmError, UsageError
from clusterlm.runs.before.plan import expected_jobs
from clusterlm.runs.before.site import partition_in_slurm
from clusterlm.runs.order import Order
from clusterlm.slurm import queue


def of_count(made: Order, cluster: Cluster, slurm: Mapping[str, str]) -> Iterator[str]:
    """UsageError for more jobs than may be in the queue: a shard is one, and a running one has its successor there."""
    shards, partition = made.submission.shards, cluster.partitions[made.job.partition]
    remembered = int(slurm.get("MaxJobCount", "0"))
    if remembered and shards > remembered:
        problem = f"{shards:,} shards are {shards:,} jobs, and this Slurm holds {remembered:,} of all its users"
        raise UsageError(problem, where="--shards", hint=f"--shards {remembered // 10}, for example")
    most = partition.max_submitted
    if most is None:
        return
    there = _in_queue(made, cluster)
    room, own = most - there, f" and has {there:,} of yours" if there else ""
    takes = f"{made.job.partition} takes {most:,} jobs of a user{own}"
    if room < 1:
        hint = "wait until some end (squeue --me), or choose another --partition"
        raise UsageError(f"{takes}: there is no room for another", where="--partition", hint=hint)
    if shards > room:
        problem = f"{shards:,} shards are {shards:,} jobs; {takes}"
        raise UsageError(problem, where="--shards", hint=_fewer(made, room))
    successors = min(shards, made.submission.at_once or shards, partition.max_running or shards)
    if made.submission.max_attempts == 1 or shards + successors <= room:
        return
    one_each = (
        "each that runs has one waiting to continue it" if shards > 1 else "when it runs, one waits to continue it"
    )
    needed = f"{shards:,} job{'s' * (shards > 1)}, and {one_each}: up to {shards + successors:,}; {takes}"
    if expected_jobs(made) > 1 and shards > 1:
        raise UsageError(f"the work of a shard needs several jobs. {needed}", where="--shards", hint=_fewer(made, room))
    yield f"{needed}. What is interrupted while there is no room waits for: clusterlm runs resume"


def _fewer(made: Order, room: int) -> str:
    """Numbers that work."""
    half = max(1, room // 2)
    at_once = room - made.submission.shards
    fewer = f"--shards {half} leaves room for those that continue them"
    return f"{fewer}; or --at-once {at_once}" if at_once > 0 else fewer


def _in_queue(made: Order, cluster: Cluster) -> int:
    """Of this user, in the same partition; 0 where Slurm does not say."""
    partition = partition_in_slurm(cluster, made.job)
    try:
        jobs = queue.queued_jobs()
    except SlurmError:
        return 0
    return sum(not job.is_ended and partition in ("", *job.partition.split(",")) for job in jobs)
