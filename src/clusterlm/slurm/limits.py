"""Partitions with their limits: Slurm's own, those of the partition's QoS, and of the QoS that a job must name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from clusterlm.cluster.profile import Partition, Purpose
from clusterlm.slurm.node_types import GpuNodes
from clusterlm.slurm.observation import Observation
from clusterlm.slurm.values import Qos, SlurmPartition
from clusterlm.units import slurm_seconds

PURPOSES: dict[Purpose, re.Pattern[str]] = {
    "test": re.compile(r"test|debug|dbg|devel|(^|[^a-z])dev([^a-z]|$)"),
    "interactive": re.compile(r"interactive"),
}


def partitions_of(seen: Observation, types: Mapping[str, GpuNodes], source: str) -> dict[str, Partition]:
    """All that are up and have GPUs; one for each QoS where a job must name one."""
    tables: dict[str, Partition] = {}
    for part in seen.partitions:
        nodes = tuple(key for key, node_type in types.items() if part.name in node_type.partitions)
        if not nodes or not part.usable or for_others(part, seen):
            continue
        own = [limits for limits in seen.qos if limits.name == part.qos]
        for name in _to_be_named(part, seen):
            named = [limits for limits in seen.qos if limits.name == name]
            key = part.name if name in (None, part.name) or len(_to_be_named(part, seen)) == 1 else str(name)
            key = key if key not in tables else f"{part.name}-{name}"
            gres_types = {types[node].gres_type for node in nodes}
            values = _limits(part, [*own, *named], gres_types) | _purpose(key)
            if seen.always_whole_nodes or part.whole_nodes:
                values["whole_nodes"] = True
            tables[key] = Partition(
                source=source,
                nodes=nodes,
                partition=None if key == part.name else part.name,
                qos=name,
                rule=f"only for accounts {', '.join(part.allowed_accounts)}" if part.allowed_accounts else None,
                **values,
            )
    return tables


def for_others(part: SlurmPartition, seen: Observation) -> bool:
    """Only for accounts that this user has not."""
    own = {association.account for association in seen.associations}
    return bool(part.allowed_accounts and own and not own & set(part.allowed_accounts))


def _to_be_named(part: SlurmPartition, seen: Observation) -> tuple[str | None, ...]:
    """QoS of which a job must name one; None alone where none need be named."""
    if not part.allowed_qos or seen.default_qos in part.allowed_qos:
        return (None,)
    of_user = {name for association in seen.associations for name in association.qos}
    return tuple(name for name in part.allowed_qos if name in of_user) or part.allowed_qos


def _limits(part: SlurmPartition, several: Iterable[Qos], gres_types: set[str | None]) -> dict[str, Any]:
    """Fields of a Partition: of each limit the strictest."""
    qos = list(several)
    caps = [tres for limits in qos for tres in (limits.most_of_user, limits.most_of_job, limits.most_of_all)]
    gpu_names = ["gres/gpu"] + [f"gres/gpu:{name}".lower() for name in gres_types if name and len(gres_types) == 1]
    times = [part.limit, *(limits.limit for limits in qos if limits.limit)]
    return {
        "limit": min(times, key=lambda text: _seconds_or_endless(text)),
        "min_nodes": max([part.min_nodes, *(limits.least_of_job.get("node", 1) for limits in qos)]),
        "max_nodes": _least([part.max_nodes, *(cap.get("node") for cap in caps)]),
        "min_gpus": max([1, *(limits.least_of_job.get(name, 1) for limits in qos for name in gpu_names)]),
        "max_gpus": _least(cap.get(name) for cap in caps for name in gpu_names),
        "max_running": _least(limits.max_running for limits in qos),
        "max_submitted": _least(limits.max_submitted for limits in qos),
    }


def _purpose(name: str) -> dict[str, Any]:
    """By the name, which is all that there is."""
    purpose = next((purpose for purpose, pattern in PURPOSES.items() if pattern.search(name.lower())), None)
    return {"purpose": purpose, "unverified": ("purpose",)} if purpose else {}


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _seconds_or_endless(text: str) -> float:
    seconds = slurm_seconds(text)
    return float("inf") if seconds is None else seconds
