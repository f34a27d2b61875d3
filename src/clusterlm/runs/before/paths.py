"""Whether the compute nodes see the files of a run, and how long the site keeps them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clusterlm.cluster import Cluster
from clusterlm.errors import RunError, SlurmError
from clusterlm.runs.asked import Asked
from clusterlm.runs.before.areas import advice, area_of
from clusterlm.runs.before.mounts import file_system_of, folder_of_each_machine, is_exported, nearest_folder
from clusterlm.runs.before.site import partition_in_slurm
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.order import Order
from clusterlm.slurm import client
from clusterlm.slurm.jobs import time_of
from clusterlm.spec import STANDARD_STREAM

STATE_OF_MACHINE = Path("/proc/stat")
SAME_BOOT_SECONDS = 10
"""Slurm counts a node's boot time back from its clock: daemons of one machine agree by a second or two."""


@dataclass(frozen=True)
class Needed:
    """What a job reads or writes."""

    what: str
    path: Path
    remedy: str
    """What to do with it, before the words of where."""
    is_program: bool = False
    """Nodes may have their own copy of it, in the same place."""


@dataclass(frozen=True)
class Doubt:
    """A file that the nodes may not see."""

    needed: Needed
    why: str
    certain: bool
    """Other machines do not see it."""


def of_paths(made: Order, asked: Asked[Any], run: RunFolder, cluster: Cluster) -> Iterator[str]:
    """RunError for a file that the nodes surely do not see."""
    needed = list(_needed(made, asked, run))
    doubts = [doubt for one in needed if (doubt := _doubt(one, cluster))]
    if doubts:
        yield from _judged(doubts, cluster, made)
    yield from _purged(needed, cluster)


def _needed(made: Order, asked: Asked[Any], run: RunFolder) -> Iterator[Needed]:
    yield Needed("the run folder", run.path, "-o FILE")
    if asked.spec.input != STANDARD_STREAM:
        yield Needed("the input", asked.input_path, "copy it")
    if held_out := asked.other_places.get("eval"):
        yield Needed("what is held out", Path(held_out), "copy it")
    yield Needed("the model", asked.model_path, "copy it, or set HF_HOME and fetch it anew,")
    if not made.job.environment.in_container:
        yield Needed("this Python", Path(sys.prefix), "make its environment", is_program=True)
        yield Needed("clusterlm itself", Path(__file__).parents[2], "install it", is_program=True)


def _doubt(one: Needed, cluster: Cluster) -> Doubt | None:
    """By the type of the file system and by the folder's name; a program may be in the image of every node."""
    there = nearest_folder(one.path)
    system, area = file_system_of(there), area_of(one.path, cluster)
    if system is None or system.is_shared or is_exported(there):
        return None
    own = folder_of_each_machine(there) or (area.path if area is not None and area.use == "local" else None)
    if own is not None:
        return Doubt(one, f"each machine has a {own} of its own", certain=True)
    if one.is_program:
        return None
    if system.is_in_memory:
        return Doubt(one, f"{system.mount} is in this machine's memory ({system.type})", certain=True)
    if system.is_local_disk:
        return Doubt(one, f"{system.mount} looks like a disk of this machine ({system.type})", certain=False)
    return None


def _judged(doubts: list[Doubt], cluster: Cluster, made: Order) -> Iterator[str]:
    nodes = _nodes(cluster, made)
    if nodes == "here":
        return
    for one in doubts:
        where = str(one.needed.path)
        remedy = f"{one.needed.remedy} {advice(cluster)}"
        if one.certain and nodes == "elsewhere":
            problem = f"the nodes of {made.job.partition} cannot see {one.needed.what}: {one.why}"
            raise RunError(problem, where=where, hint=remedy)
        yield f"do the nodes see {one.needed.what}? {where}: {one.why}; if not: {remedy}"


def _nodes(cluster: Cluster, made: Order) -> Literal["here", "elsewhere", "not known"]:
    """Whether all of the partition's nodes are this machine (a workstation, a lab): it booted when they did."""
    partition = partition_in_slurm(cluster, made.job)
    try:
        nodes = [node for node in client.nodes() if not partition or partition in node.partitions]
    except SlurmError:
        return "not known"
    boots = [boot.timestamp() for node in nodes if (boot := time_of(node.boot_time))]
    here = _boot_time()
    if not boots or here is None:
        return "not known"
    return "here" if all(abs(boot - here) <= SAME_BOOT_SECONDS for boot in boots) else "elsewhere"


def _boot_time() -> float | None:
    try:
        lines = STATE_OF_MACHINE.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), None)


def _purged(needed: list[Needed], cluster: Cluster) -> Iterator[str]:
    """By area, what lies in it."""
    found: dict[str, list[str]] = {}
    for one in needed:
        area = area_of(one.path, cluster)
        if area is not None and area.purge_days is not None and not one.is_program:
            rule = f"where files are deleted that nobody reads for {area.purge_days} days"
            found.setdefault(f"{area.path} ({area.use}), {rule}", []).append(one.what)
    for where, what in found.items():
        verb = "is" if len(what) == 1 else "are"
        yield f"{', '.join(what[:-1])}{' and ' if what[1:] else ''}{what[-1]} {verb} on {where}"
