"""Why Slurm does not take a job: its own words, ours, the flag that asks for it, and what there is instead."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterlm.errors import SlurmError, did_you_mean
from clusterlm.slurm import client
from clusterlm.slurm.client import Refusal
from clusterlm.slurm.reasons import ROWS as REASONS
from clusterlm.slurm.reasons import words

MOST_NAMES = 15
"""In a hint."""
SUBJECT = re.compile(r"(Batch job submission failed|allocation failure|Unable to allocate resources): ")
PARTITION = re.compile(r"^(?:#SBATCH\s+)?(?:--partition[=\s]|-p\s?)(?P<name>[^\s,]+)", re.MULTILINE)
LIMIT = re.compile(r"\b(Assoc|QOS)[A-Z]\w+")
"""Slurm names it in a line of its own before it says that a policy is violated."""


@dataclass(frozen=True)
class Asked:
    """What the hint may need to know."""

    partition: str | None
    name: str
    """That Slurm complains of, where it says one."""


@dataclass(frozen=True)
class Row:
    says: str
    """A regular expression; of several rows that fit the first counts."""
    problem: str
    where: str
    hint: str | Callable[[Asked], str]


def explained(refusal: Refusal, script: Path, options: Sequence[str] = ()) -> SlurmError:
    said = SUBJECT.sub("", refusal.said)
    for row in ROWS:
        if found := re.search(row.says, refusal.complaint):
            asked = Asked(_partition(script, options), found.groupdict().get("name") or "")
            problem = row.problem.format(name=asked.name, partition=asked.partition or "the standard one")
            where = row.where.format(name=asked.name)
            return SlurmError(f"Slurm does not take the job: {problem} ({said})", where=where, hint=_hint(row, asked))
    limit = LIMIT.search(refusal.complaint)
    if limit and any(re.match(pattern, limit[0]) for pattern, _, _ in REASONS):
        return SlurmError(f"Slurm does not take the job: {words(limit[0])}", where=str(script))
    return SlurmError(f"Slurm does not take the job: {said or 'without a word'}", where=str(script))


def _hint(row: Row, asked: Asked) -> str | None:
    """What there is, asked of Slurm; None where it does not say."""
    if isinstance(row.hint, str):
        return row.hint
    try:
        return row.hint(asked)
    except SlurmError:
        return None


def _partition(script: Path, options: Sequence[str]) -> str | None:
    """The last one that was asked for counts, and an option before the script."""
    try:
        asked = PARTITION.findall("\n".join(line for line in script.read_text().splitlines() if line[:7] == "#SBATCH"))
    except (OSError, UnicodeError):
        asked = []
    asked += PARTITION.findall("\n".join(options))
    return asked[-1] if asked else None


# ------------------------------------------------------------------------------------------------------ what there is


def _partitions(asked: Asked) -> str:
    names = [one.name for one in client.partitions() if one.usable]
    return did_you_mean(asked.name, names) if asked.name else f"there is: {_listed(names)}"


def _limits(asked: Asked) -> str:
    limits = {one.name: one.limit for one in client.partitions() if one.usable}
    if asked.partition in limits:
        return f"{asked.partition} allows {limits[asked.partition]}; its QoS or your account perhaps less"
    return f"limits: {_listed(f'{name} {limit}' for name, limit in limits.items())}"


def _sizes(asked: Asked) -> str:
    sizes: dict[str, int] = {}
    for node in client.nodes():
        for name in node.partitions:
            sizes[name] = sizes.get(name, 0) + 1
    if asked.partition in sizes:
        return f"{asked.partition} has {sizes[asked.partition]:,} nodes; a job may perhaps have less of them"
    return f"nodes: {_listed(f'{name} {count:,}' for name, count in sizes.items())}"


def _gpus(asked: Asked) -> str:
    nodes = [node for node in client.nodes() if asked.partition is None or asked.partition in node.partitions]
    kinds = {f"{gpu.type or 'GPUs'} x {gpu.count}" for node in nodes for gpu in node.gpus}
    there = f"a node of {asked.partition or 'the cluster'} has: {_listed(sorted(kinds)) or 'no GPUs'}"
    return f"{there}. Is the profile still right? clusterlm clusters probe FILE"


def _nodes_own(asked: Asked) -> str:
    nodes = [node for node in client.nodes() if asked.partition is None or asked.partition in node.partitions]
    kinds = {f"{node.cpus} CPUs and {node.memory_mib // 1024} GiB" for node in nodes}
    return f"a node of {asked.partition or 'the cluster'} has for jobs: {_listed(sorted(kinds))}"


def _features(asked: Asked) -> str:
    return f"there is: {_listed(sorted({feature for node in client.nodes() for feature in node.features}))}"


def _accounts(asked: Asked) -> str:
    names = {one.account for one in client.associations(getpass.getuser(), client.cluster_name())}
    return f"you may charge: {_listed(sorted(names)) or 'no account'}"


def _qos(asked: Asked) -> str:
    names = {name for one in client.associations(getpass.getuser(), client.cluster_name()) for name in one.qos}
    part = next((one for one in client.partitions() if one.name == asked.partition), None)
    if part and part.allowed_qos:
        return f"you may use: {_listed(sorted(names)) or 'none'}; {part.name} takes: {_listed(part.allowed_qos)}"
    return f"you may use: {_listed(sorted(names)) or 'none'}"


def _array_size(asked: Asked) -> str:
    return f"this Slurm takes at most {int(client.configuration()['MaxArraySize']):,} tasks in an array"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:MOST_NAMES]) + (f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else "")


# --------------------------------------------------------------------------------------------------------- the table

ROWS: tuple[Row, ...] = (
    Row(r"invalid partition specified: (?P<name>\S+)", "there is no partition {name}", "--partition", _partitions),
    Row(r"Invalid partition name", "there is no such partition", "--partition", _partitions),
    Row(r"Required partition not available|Partition in DOWN", "{partition} is closed now", "--partition", _partitions),
    Row(r"group not permitted to use this partition", "{partition} is for other groups", "--partition", _partitions),
    Row(r"Invalid account", "this account may not be charged, or not in this partition", "--account", _accounts),
    Row(r"Invalid qos", "there is no such QoS, or not for this account or partition", "--qos", _qos),
    Row(r"Requested time limit is invalid", "longer than its limit allows", "--time", _limits),
    Row(r"Invalid --time", "is not a time of Slurm", "--time", "write 2-00:00:00, 36:00:00, 15:00 or 90 (minutes)"),
    Row(r"Node count specification invalid|Invalid node count", "not so many nodes", "--nodes", _sizes),
    Row(r"Memory specification can not be satisfied", "no node has so much memory", "--mem", _nodes_own),
    Row(r"CPU count per node can not be satisfied", "no node has so many CPUs", "--cpus-per-task", _nodes_own),
    Row(r"More processors requested than permitted", "more CPUs than there are", "--cpus-per-task", _nodes_own),
    Row(r"Invalid generic resource|Invalid GRES", "there are no such GPUs", "--gpus", _gpus),
    Row(r"Requested node configuration is not available", "no node has all that it asks for", "--gpus", _gpus),
    Row(r"Invalid feature specification", "no node has such a feature", "--constraint", _features),
    Row(r"Invalid node name", "there is no such node", "--nodelist", "sinfo --Node lists them"),
    Row(r"Invalid job array specification", "too many shards in one array", "--shards", _array_size),
    Row(r"Requested reservation is invalid", "no such reservation", "--reservation", "scontrol show reservation"),
    Row(r"Access denied to requested reservation", "a reservation for others", "--reservation", "leave it out"),
    Row(r"Invalid license", "there is no such licence", "--licenses", "scontrol show licenses"),
    Row(r"Job dependency problem", "it waits for a job that Slurm does not know", "--dependency", "squeue --me"),
    Row(r"(unrecognized|ambiguous) option '(?P<name>[^']+)'", "sbatch does not know {name}", "--sbatch", "man sbatch"),
    Row(r"Invalid (?P<name>--\S+) specification", "sbatch cannot read what {name} says", "{name}", "man sbatch"),
    Row(r"Unable to open file", "the batch script cannot be read", "sbatch", "is its folder still there?"),
    Row(
        r"does not look like a batch script",
        "the file is no batch script",
        "sbatch",
        "its first line must be #!/bin/bash",
    ),
    Row(
        r"temporarily unable|queue full|temporarily unavailable|temporarily disabled|presently disabled",
        "it takes no jobs for the moment, also after two minutes",
        "sbatch",
        "try again in a few minutes",
    ),
    Row(r"I/O error writing script", "it cannot write, its disk may be full", "sbatch", "tell the site's support"),
    Row(r"[Aa]uthentication", "it does not believe who you are (munge)", "sbatch", "tell the site's support"),
)
"""Source: what Slurm 22.05 said, tests/slurm/test_submit.py; further words: src/common/slurm_errno.c."""
