"""The #SBATCH lines of a job, in its site's own spelling."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from clusterlm.cluster.profile import Cluster
from clusterlm.errors import UsageError
from clusterlm.slurm.job import Job
from clusterlm.slurm.own_options import Option, with_own
from clusterlm.units import show_slurm_time

PLAIN = re.compile(r"[\w@%+=:,./&|*()\[\]-]+", re.ASCII)
"""What sbatch reads in a #SBATCH line as it stands; all else it reads in double quotes, as of Slurm 22.05."""
ALL_MEMORY = "0"
"""Of a node that no other job computes on: it has less than it is sold with, and Slurm refuses what is above that."""


def header(cluster: Cluster, job: Job) -> str:
    options = with_own(list(_options(cluster, job)), job.options)
    return "\n".join(f"#SBATCH {name}{_value(name, value)}" for name, value in options)


def log_path(run: str, tasks: Sequence[int] | None) -> str:
    """Where the jobs of a run print, as Slurm reads it: RUN/logs/12.out, or RUN/logs/12_3.out of an array."""
    return f"{run.replace('%', '%%')}/logs/{'%j' if tasks is None else '%A_%a'}.out"


def account_of(cluster: Cluster, job: Job) -> str | None:
    return job.account or cluster.request.account_name


def ranges(numbers: Sequence[int]) -> str:
    """0,2,5-9"""
    ordered = sorted(numbers)
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


def _options(cluster: Cluster, job: Job) -> Iterator[Option]:
    partition, node, request = cluster.partitions[job.partition], cluster.nodes[job.node_type], cluster.request
    asked = job.partition if partition.partition is None else partition.partition
    yield "--job-name=", job.name
    yield "--output=", job.output
    if job.run is not None:
        yield "--open-mode=", "append"
    for name, value in (
        ("--partition=", asked),
        ("--qos=", job.qos or partition.qos),
        ("--account=", account_of(cluster, job)),
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
    yield from _life(job)


def _gpus(cluster: Cluster, job: Job) -> Option:
    kind = cluster.request.gres
    if kind == "gpus-per-node":
        return "--gpus-per-node=", str(job.gpus_per_node)
    gres_type = cluster.nodes[job.node_type].gres_type if kind == "typed" else None
    return "--gres=", ":".join(part for part in ("gpu", gres_type, str(job.gpus_per_node)) if part)


def _life(job: Job) -> Iterator[Option]:
    """What becomes of the job: its tasks, its warning before the end, its return to the queue."""
    if job.tasks is not None:
        yield "--array=", ranges(job.tasks) + (f"%{job.tasks_at_once}" if job.tasks_at_once else "")
    if job.signal_seconds is not None:
        yield "--signal=", f"USR1@{job.signal_seconds}"
    if job.run is not None:
        yield "--requeue", ""


def _value(name: str, value: str) -> str:
    """Quoted as sbatch reads its #SBATCH lines, which no shell sees."""
    if PLAIN.fullmatch(value) or (not value and not name.endswith("=")):
        return value
    if "$" in value:
        raise UsageError(f"{value!r}: Slurm fills in no shell variables", where=name.rstrip("="), hint="write it out")
    if not value.isprintable() or "\\" in value:
        problem = f"{value!r}: a batch script cannot hold such characters here"
        raise UsageError(problem, where=name.rstrip("="), hint="choose a name without line breaks and backslashes")
    return '"' + value.replace('"', '\\"') + '"'
