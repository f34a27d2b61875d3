"""What a site would not take, and what contradicts itself: refused before the queue."""

from __future__ import annotations

from collections.abc import Iterator

from clusterlm.cluster.profile import Cluster, NodeType, Partition
from clusterlm.errors import UsageError
from clusterlm.slurm.header import account_of
from clusterlm.slurm.job import Job
from clusterlm.slurm.own_options import has
from clusterlm.units import show_slurm_time

LONGEST_WARNING_SECONDS = 65_535
"""Of --signal: sbatch(1)."""


def refuse(cluster: Cluster, job: Job) -> None:
    """UsageError for the first thing that the site would not take."""
    if cluster.status == "retired":
        successor = f"use {cluster.successor}" if cluster.successor else "choose another: clusterlm clusters list"
        last = f" since {cluster.until}" if cluster.until else ""
        raise UsageError(f"{cluster.title} is out of service{last}", where="--on", hint=successor)
    if not cluster.slurm:
        raise UsageError(f"{cluster.title} has no Slurm: jobs run there directly", where="--on", hint="leave it out")
    if job.partition not in cluster.partitions or job.node_type not in cluster.partitions[job.partition].nodes:
        there = "; ".join(f"{name}: {', '.join(part.nodes)}" for name, part in cluster.partitions.items())
        raise UsageError(f"{cluster.name} has no {job.node_type!r} in {job.partition!r}", hint=f"there is {there}")
    for problem, where in _too_much(cluster, job, cluster.partitions[job.partition], cluster.nodes[job.node_type]):
        raise UsageError(f"{cluster.name}, {job.partition}: {problem}", where=where)
    for problem, where in (*_contradictions(job, cluster.nodes[job.node_type].unit), *_unusable_container(job)):
        raise UsageError(problem, where=where)
    if cluster.request.account and account_of(cluster, job) is None and not has(job.options, "account"):
        raise UsageError(
            f"{cluster.title} charges every job to an account", where="--account", hint="--account PROJECT"
        )


def _too_much(cluster: Cluster, job: Job, part: Partition, node: NodeType) -> Iterator[tuple[str, str]]:
    """What is wrong, and the flag that asks for it."""
    gpus, unit = job.nodes * job.gpus_per_node, node.unit
    if part.limit_seconds is not None and job.seconds > part.limit_seconds:
        yield f"{show_slurm_time(job.seconds)} is longer than its limit, {part.limit}", "--time"
    if not 1 <= job.gpus_per_node <= node.gpus:
        yield f"a node has {node.gpus} {unit}s, not {job.gpus_per_node}", "--gpus-per-node"
    for amount, least, most, what, where in (
        (job.nodes, part.min_nodes, part.max_nodes or node.count, "node", "--nodes"),
        (gpus, part.min_gpus, part.max_gpus, unit, "--gpus"),
    ):
        if most is not None and amount > most:
            yield f"a job may have {most:,} {what}s, not {amount:,}", where
        if amount < least:
            yield f"a job must have {least:,} {what}s, not {amount:,}", where
    if job.nodes > 1 and job.gpus_per_node < node.gpus and not cluster.request.partial_nodes:
        yield f"a job on several nodes must take all {node.gpus} {unit}s of each", "--gpus-per-node"
    shares: tuple[tuple[int | None, float | None, str, str], ...] = (
        (job.cpus_per_task, node.cpus or node.cores, "CPUs", "--cpus-per-task"),
        (job.memory_gib, node.host_memory_gib, "GiB of memory", "--mem"),
    )
    for asked, there, what, where in shares:
        if asked is not None and there is not None and asked > there:
            yield f"a node has {there:g} {what}, not {asked}", where


def _contradictions(job: Job, unit: str) -> Iterator[tuple[str, str]]:
    if job.tasks is not None and (not job.tasks or min(job.tasks) < 0 or len(set(job.tasks)) < len(job.tasks)):
        yield "an array has tasks, each of them once, numbered from 0", "--shards"
    if job.tasks_at_once is not None and (job.tasks is None or job.tasks_at_once < 1):
        yield "at least one task of an array runs at once", "--at-once"
    if job.signal_seconds is not None:
        if not 0 < job.signal_seconds <= LONGEST_WARNING_SECONDS:
            yield f"Slurm warns from 1 to {LONGEST_WARNING_SECONDS:,} s before the end", "--signal"
        if job.signal_seconds >= job.seconds:
            need = f"the worker needs {show_slurm_time(job.signal_seconds)} to stop"
            yield f"{show_slurm_time(job.seconds)} is too short: {need}", "--time"
    if job.run is not None and not 1 <= job.ranks_per_node <= job.gpus_per_node:
        gpus = f"{job.gpus_per_node} {unit}{'s' if job.gpus_per_node > 1 else ''}"
        yield f"{job.ranks_per_node} processes cannot share {gpus} of a node", "--gpus-per-node"


def _unusable_container(job: Job) -> Iterator[tuple[str, str]]:
    place = job.environment
    if place.in_container and not place.image:
        yield f"{place.kind} needs the image", "--container"
    if place.kind in ("apptainer", "singularity", "pyxis"):
        for path in (job.run or "", place.package):
            if "," in path or ":" in path:
                yield f"{path!r}: {place.kind} cannot bind a folder with a comma or a colon in its name", "--container"
