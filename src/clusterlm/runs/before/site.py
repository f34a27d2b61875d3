"""Whether this machine's Slurm is that of the cluster which was named, and its names for what the profile names."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from clusterlm.cluster import Cluster, readable_clusters, recognise
from clusterlm.errors import SlurmError, UsageError
from clusterlm.slurm import client
from clusterlm.slurm.job import Job

ANY_HOST = ""
"""Names of hosts repeat from site to site (login01): another cluster is known by its Slurm alone."""


def partition_in_slurm(cluster: Cluster, job: Job) -> str:
    """Its own name for the job's partition; "" where none is asked for."""
    named = cluster.partitions[job.partition].partition
    return job.partition if named is None else named


def this_slurm(cluster: Cluster, *, dry_run: bool) -> tuple[Mapping[str, str] | None, list[str]]:
    """The settings of its Slurm, None where nothing can be asked of it here; and doubts.

    SlurmError without a Slurm that answers, UsageError on another cluster; for a dry run either is a doubt.
    """
    try:
        settings = client.configuration()
        return settings, _doubts(cluster, client.name_in(settings))
    except (SlurmError, UsageError) as problem:
        if dry_run:
            return None, [f"nothing but the plan was checked: {problem.problem}"]
        if isinstance(problem, SlurmError) and problem.problem.startswith("there is no Slurm here"):
            hint = f"{problem.hint}; --dry-run shows the script, and without --on the run is done on this machine"
            raise SlurmError(problem.problem, where=f"--on {cluster.name}", hint=hint) from None
        raise


def _doubts(cluster: Cluster, slurm: str) -> list[str]:
    """UsageError where it is surely another one. A profile that names no Slurm may be of any."""
    named = cluster.access.cluster_names
    if not named or recognise((cluster,), slurm, socket.gethostname()):
        return []
    there = recognise(tuple(readable_clusters()[0].values()), slurm, ANY_HOST)
    names = " or ".join(repr(name) for name in named)
    if there is None and "cluster_names" in cluster.access.unverified:
        return [f"is this {cluster.title}? Its Slurm is called {slurm!r}; its profile expects {names}, unverified"]
    problem = f"the Slurm of this machine is called {slurm!r}, that of {cluster.title} {names}"
    hint = f"--on auto, or log in to {cluster.title}; if this is it: access.cluster_names = [{slurm!r}] in a profile"
    if there is not None and there.name != cluster.name:
        hint = f"--on {there.name}, or log in to {cluster.title}"
    raise UsageError(problem, where=f"--on {cluster.name}", hint=hint)
