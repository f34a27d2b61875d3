"""Which nodes are of one type: the same GPUs, as many, in the same kind of machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from clusterlm.slurm.gpu_kind import UNTYPED, Kind, is_slice, kind_of
from clusterlm.slurm.observation import Observation
from clusterlm.slurm.values import SlurmNode


@dataclass(frozen=True)
class GpuNodes:
    """Nodes of one type; at least one."""

    gres_type: str | None
    gpus: int
    kind: Kind
    architecture: str
    members: tuple[SlurmNode, ...]
    constraint: str | None = None
    """A feature that tells them from others which a job in the same partition could get instead."""
    lookalikes: tuple[str, ...] = ()
    """Types that nothing tells them from."""

    @property
    def cores(self) -> int:
        return min(node.cores for node in self.members)

    @property
    def cpus(self) -> int:
        return min(node.cpus for node in self.members)

    @property
    def memory_range_gib(self) -> tuple[int, int]:
        sizes = [node.memory_mib // 1024 for node in self.members]
        return min(sizes), max(sizes)

    @property
    def host_memory_gib(self) -> int | None:
        """None where the site does not tell Slurm: RealMemory=1."""
        return self.memory_range_gib[0] or None

    @property
    def partitions(self) -> set[str]:
        return {name for node in self.members for name in node.partitions}

    @property
    def features(self) -> frozenset[str]:
        """Those that all of them have."""
        return frozenset.intersection(*(node.features for node in self.members))


def gpu_nodes(nodes: Collection[SlurmNode], told: Mapping[str, str]) -> dict[str, GpuNodes]:
    """By a name for each type, in the order of the names. Slices of GPUs are left out."""
    groups: dict[tuple[str | None, int, Kind, str], list[SlurmNode]] = {}
    for node in nodes:
        for gpu in node.gpus:
            if not is_slice(gpu.type):
                kind = kind_of(gpu.type, node.features | node.gpu_memory_gres, told)
                groups.setdefault((gpu.type, gpu.count, kind, node.architecture), []).append(node)
    types = [GpuNodes(*facts, members=tuple(members)) for facts, members in groups.items()]
    return dict(sorted(zip(_names(types), types, strict=True)))


def told_apart(types: Mapping[str, GpuNodes]) -> dict[str, GpuNodes]:
    """Each with the constraint that it needs beside partition and GPU type, or with those it is mistaken for."""
    typed = all(nodes.gres_type for nodes in types.values())

    def mistaken_for(key: str) -> list[str]:
        nodes = types[key]
        return [
            other
            for other, their in types.items()
            if other != key and nodes.partitions & their.partitions
            if not typed or (nodes.gres_type or "").lower() == (their.gres_type or "").lower()
        ]

    def marked(key: str) -> GpuNodes:
        nodes, others = types[key], mistaken_for(key)
        taken = {feature for other in others for node in types[other].members for feature in node.features}
        own = sorted(nodes.features - taken)
        if not others or own:
            return replace(nodes, constraint=own[0] if others else None)
        return replace(nodes, lookalikes=tuple(others))

    return {key: marked(key) for key in types}


def price_of_gpu(nodes: GpuNodes, seen: Observation) -> float | None:
    """Billing units of a GPU with its share of cores and memory in an hour; None: no weights, or several."""
    parts = [part for part in seen.partitions if part.name in nodes.partitions and part.usable]
    weights = [part.billing_weights for part in parts if part.billing_weights]
    prices = {_price(nodes, weight, seen.highest_weight_counts) for weight in weights}
    return prices.pop() or None if len(prices) == 1 else None


def _price(nodes: GpuNodes, weights: Mapping[str, float], highest: bool) -> float:
    typed = f"gres/gpu:{nodes.gres_type}".lower()
    parts = (
        weights.get(typed, 0.0) + weights.get("gres/gpu", 0.0),
        weights.get("cpu", 0.0) * nodes.cpus / nodes.gpus,
        weights.get("mem", 0.0) * min(node.memory_mib for node in nodes.members) / nodes.gpus,
    )
    return round(max(parts) if highest else sum(parts), 3)


def _names(types: list[GpuNodes]) -> list[str]:
    """The shortest way to call each that calls no other the same."""
    ways: list[Callable[[GpuNodes], str]] = [
        lambda nodes: _plain(nodes.gres_type or _card(nodes)),
        lambda nodes: _card(nodes),
        lambda nodes: f"{_card(nodes)}-x{nodes.gpus}",
        lambda nodes: f"{_card(nodes)}-x{nodes.gpus}-{_plain(nodes.architecture)}",
        lambda nodes: f"{_plain(nodes.gres_type or UNTYPED)}-{_card(nodes)}-x{nodes.gpus}-{_plain(nodes.architecture)}",
    ]
    called = [[way(nodes) for nodes in types] for way in ways]
    return [
        next((names[at] for names in called if names.count(names[at]) == 1), f"{called[-1][at]}-{at}")
        for at in range(len(types))
    ]


def _card(nodes: GpuNodes) -> str:
    return nodes.kind.key if nodes.kind.possible else _plain(nodes.gres_type or UNTYPED)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower())
