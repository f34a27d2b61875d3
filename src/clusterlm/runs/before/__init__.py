"""Before the queue: what would keep a run's jobs from starting, or from being of use, is said before it is written."""

from __future__ import annotations

from typing import Any

from clusterlm.cluster import Cluster
from clusterlm.runs.asked import Asked
from clusterlm.runs.before.count import of_count
from clusterlm.runs.before.paths import of_paths
from clusterlm.runs.before.plan import of_idle_gpus, of_ram, of_time
from clusterlm.runs.before.room import of_room
from clusterlm.runs.before.site import this_slurm
from clusterlm.runs.before.trial import of_qos, of_trial
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.order import Order

__all__ = ["look_ahead"]


def look_ahead(made: Order, asked: Asked[Any], run: RunFolder, cluster: Cluster, *, dry_run: bool = False) -> list[str]:
    """What the user should know; ClusterlmError for the first thing that cannot work. Nothing is written or queued.

    `dry_run`: perhaps not on a machine of the cluster; then only what the plan itself tells is looked at.
    """
    of_plan = [*of_time(made), *of_ram(made), *of_idle_gpus(made)]
    slurm, doubts = this_slurm(cluster, dry_run=dry_run)
    if slurm is None:
        return [*of_plan, *doubts]
    return [
        *of_plan,
        *doubts,
        *of_paths(made, asked, run, cluster),
        *of_room(made, asked, run, cluster),
        *of_count(made, cluster, slurm),
        *of_qos(made, cluster, slurm),
        *of_trial(made, cluster, slurm),
    ]
