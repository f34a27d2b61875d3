"""A job as a batch script in its site's own spelling, which a colleague can read and hand to sbatch alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from clusterlm.cluster.profile import Cluster, NodeType, Partition
from clusterlm.errors import UsageError
from clusterlm.slurm.job import Job
from clusterlm.units import show_slurm_time

PLAIN = re.compile(r"[\w@%+=:,./&|*()\[\]-]+", re.ASCII)
"""What sbatch reads in a #SBATCH line as it stands; all else it reads in double quotes, as of Slurm 22.05."""
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
ALL_MEMORY = "0"
"""Of a node that no other job computes on: it has less than it is sold with, and Slurm refuses what is above that."""
HUB_CACHE_ON = ("scratch", "fast", "project")
"""Uses of a storage area, the best for the models of the Hugging Face hub first."""


def script(cluster: Cluster, job: Job) -> str:
    """UsageError where the site would refuse the job."""
    refuse(cluster, job)
    options = "\n".join(f"#SBATCH {name}{_header_value(name, value)}" for name, value in _options(cluster, job))
    body = "\n\n".join("\n".join(part) for part in _body(cluster, job) if part)
    return f"#!/bin/bash\n{_comment(cluster, job)}\n{options}\n\n{body}\n"


def _comment(cluster: Cluster, job: Job) -> str:
    size = f"{job.nodes} x {job.gpus_per_node} {cluster.nodes[job.node_type].unit}s"
    name = " ".join(job.name.split())
    memory = "" if cluster.request.memory or job.memory_gib is None else " The site sets the memory: no --mem."
    return f"# {name}: {size} on {cluster.title}, written by clusterlm. Submit it with sbatch.{memory}"


def _options(cluster: Cluster, job: Job) -> Iterator[tuple[str, str]]:
    """Of the #SBATCH lines: ('--nodes=', '2'); a flag has no value."""
    partition, node, request = cluster.partitions[job.partition], cluster.nodes[job.node_type], cluster.request
    asked = job.partition if partition.partition is None else partition.partition
    yield "--job-name=", job.name
    yield "--output=", job.output
    for name, value in (
        ("--partition=", asked),
        ("--qos=", partition.qos),
        ("--account=", _account(cluster, job)),
        ("--constraint=", node.constraint),
        ("--nodelist=", node.nodelist),
    ):
        if value:
            yield name, value
    yield "--nodes=", str(job.nodes)
    yield "--ntasks-per-node=", "1"
    yield _gpus(cluster, job)
    if job.cpus_per_task is not None:
        yield "--cpus-per-task=", str(job.cpus_per_task)
    alone = partition.whole_nodes or job.gpus_per_node == node.gpus
    if request.memory and (alone or job.memory_gib is not None):
        yield "--mem=", ALL_MEMORY if alone else f"{job.memory_gib}G"
    if partition.whole_nodes:
        yield "--exclusive", ""
    yield "--time=", show_slurm_time(-(-job.seconds // 60) * 60)


def _gpus(cluster: Cluster, job: Job) -> tuple[str, str]:
    kind = cluster.request.gres
    if kind == "gpus-per-node":
        return "--gpus-per-node=", str(job.gpus_per_node)
    gres_type = cluster.nodes[job.node_type].gres_type if kind == "typed" else None
    return "--gres=", ":".join(part for part in ("gpu", gres_type, str(job.gpus_per_node)) if part)


def _account(cluster: Cluster, job: Job) -> str | None:
    return job.account or cluster.request.account_name


def _body(cluster: Cluster, job: Job) -> Iterator[list[str]]:
    yield ["set -euo pipefail"]
    yield _modules(cluster)
    yield _settings(cluster, job)
    yield [f"srun {shlex.join(job.command)}"]


def _modules(cluster: Cluster) -> list[str]:
    entries = cluster.software.modules if cluster.software else ()
    if not entries:
        return []
    lines = [f"module {shlex.join(entry.split() if ' ' in entry else ('load', entry))}" for entry in entries]
    return ["set +u # the module command reads variables that are not set", *lines, "set -u"]


def _settings(cluster: Cluster, job: Job) -> list[str]:
    lines = []
    if cache := _hub_cache(cluster, job):
        lines.append(f'export HF_HOME="${{HF_HOME:-{cache}}}" # models, away from the home with its quota')
    if cluster.access.internet is False:
        lines.append("export HF_HUB_OFFLINE=1 # these nodes do not reach the internet")
    if job.cpus_per_task is not None:
        lines.append('export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it over since Slurm 22.05')
    return lines


def _hub_cache(cluster: Cluster, job: Job) -> str | None:
    """A folder as it stands between double quotes; None where the site has none, or only in an account's folder."""
    areas = sorted(
        (area for area in cluster.storage.values() if area.use in HUB_CACHE_ON),
        key=lambda area: HUB_CACHE_ON.index(area.use),
    )
    if not areas:
        return None
    path, account = areas[0].path, _account(cluster, job)
    shared = set(VARIABLE.findall(path)) <= {"PROJECT"}
    if "PROJECT" in VARIABLE.findall(path):
        if account is None:
            return None
        path = VARIABLE.sub(lambda found: account if found[1] == "PROJECT" else found[0], path)
    literal = re.sub(r'([\\"`}])', r"\\\1", path)
    return f"{literal}/$USER/huggingface" if shared else f"{literal}/huggingface"


def _header_value(name: str, value: str) -> str:
    """Quoted as sbatch reads its #SBATCH lines, which no shell sees."""
    if PLAIN.fullmatch(value) or (not value and not name.endswith("=")):
        return value
    if "$" in value:
        raise UsageError(f"{value!r}: Slurm fills in no shell variables", where=name.rstrip("="), hint="write it out")
    if not value.isprintable() or "\\" in value:
        problem = f"{value!r}: a batch script cannot hold such characters here"
        raise UsageError(problem, where=name.rstrip("="), hint="choose a name without line breaks and backslashes")
    return '"' + value.replace('"', '\\"') + '"'


# ------------------------------------------------------------------------------------------------------------ refusals


def refuse(cluster: Cluster, job: Job) -> None:
    """UsageError for the first thing that the site would not take."""
    if cluster.status == "retired":
        successor = f"use {cluster.successor}" if cluster.successor else "choose another: clusterlm clusters list"
        last = f" since {cluster.until}" if cluster.until else ""
        raise UsageError(f"{cluster.title} is out of service{last}", where="--on", hint=successor)
    if not cluster.slurm:
        raise UsageError(f"{cluster.title} has no Slurm: jobs run there directly", where="--on")
    if job.partition not in cluster.partitions or job.node_type not in cluster.partitions[job.partition].nodes:
        there = "; ".join(f"{name}: {', '.join(part.nodes)}" for name, part in cluster.partitions.items())
        raise UsageError(f"{cluster.name} has no {job.node_type!r} in {job.partition!r}", hint=f"there is {there}")
    for problem, where in _too_much(cluster, job, cluster.partitions[job.partition], cluster.nodes[job.node_type]):
        raise UsageError(f"{cluster.name}, {job.partition}: {problem}", where=where)
    if cluster.request.account and _account(cluster, job) is None:
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
