"""Places: the partitions of a cluster with the node types in them, and how many GPUs a job may have there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from clusterlm.cluster import Cluster, Gpu, NodeType, Partition, find_gpu, gpus
from clusterlm.errors import UsageError, did_you_mean
from clusterlm.planning.speed import Links, usual_links
from clusterlm.planning.wishes import Wishes

ANY_GPU = "any"
NODE_COUNTS = tuple(2**power for power in range(11))
"""Numbers of whole nodes that are tried, beside the most that a partition gives."""


@dataclass(frozen=True)
class Place:
    """One partition and one of its node types."""

    partition_name: str
    partition: Partition
    node_name: str
    node: NodeType
    gpu: Gpu
    cluster: Cluster

    def allocated_gpus(self, wanted: int) -> int:
        """What the site gives and charges for `wanted` GPUs."""
        return self.nodes(wanted) * self.node.gpus if self.partition.whole_nodes else wanted

    def nodes(self, wanted: int) -> int:
        return -(-wanted // self.node.gpus)

    @cached_property
    def most_nodes(self) -> int:
        limits = [self.partition.max_nodes, self.node.count]
        if self.partition.max_gpus:
            limits.append(max(1, self.partition.max_gpus // self.node.gpus))
        return min((limit for limit in limits if limit), default=NODE_COUNTS[-1])

    def allows(self, wanted: int) -> bool:
        """Whether a job may have so many, whole nodes where it has several."""
        partition, nodes = self.partition, self.nodes(wanted)
        return (
            max(partition.min_nodes, 1) <= nodes <= self.most_nodes
            and partition.min_gpus <= self.allocated_gpus(wanted) <= (partition.max_gpus or wanted * self.node.gpus)
            and (nodes == 1 or wanted % self.node.gpus == 0)
        )

    @cached_property
    def gpu_counts(self) -> tuple[int, ...]:
        """All that leave no GPU idle: parts of a node where the site gives parts, then whole nodes."""
        each = self.node.gpus
        parts = () if self.partition.whole_nodes else range(1, each)
        most = min(self.most_nodes, NODE_COUNTS[-1])
        whole = (each * nodes for nodes in sorted({*NODE_COUNTS, most}) if nodes <= most)
        return tuple(count for count in (*parts, *whole) if self.allows(count))

    @cached_property
    def links(self) -> Links:
        usual, node = usual_links(self.gpu), self.node
        reads = [store.read_gb_per_second for store in self.cluster.storage.values() if store.read_gb_per_second]
        return Links(
            gpu_gb_per_second=node.gpu_link_gb_per_second or usual.gpu_gb_per_second,
            node_gb_per_second=node.network_gb_per_second or usual.node_gb_per_second,
            storage_gb_per_second=max(reads, default=usual.storage_gb_per_second),
        )

    def host_bytes(self, wanted: int) -> int | None:
        """RAM of one node that a job with so many GPUs may use; its share of the node where nothing else is said."""
        on_node = min(self.allocated_gpus(wanted), self.node.gpus)
        limits = []
        if self.node.host_memory_per_gpu_gib:
            limits.append(self.node.host_memory_per_gpu_gib * on_node)
        if self.node.host_memory_gib:
            limits.append(self.node.host_memory_gib * on_node / self.node.gpus)
        return round(min(limits) * 2**30) if limits else None


def places(cluster: Cluster, wishes: Wishes) -> list[Place]:
    """Where the wishes allow a job to be; UsageError names what cannot be had, or the two wishes that contradict."""
    everywhere = [
        Place(name, partition, node, cluster.nodes[node], _gpu(cluster.nodes[node], wishes), cluster)
        for name, partition in cluster.partitions.items()
        for node in partition.nodes
    ]
    found = _in_partition(cluster, everywhere, wishes)
    found = _with_gpu(cluster, everywhere, found, wishes)
    return _with_room(found, wishes)


def _gpu(node: NodeType, wishes: Wishes) -> Gpu:
    if node.gpu != ANY_GPU:
        return gpus()[node.gpu]
    if wishes.gpu is None:
        raise UsageError("this profile leaves the kind of GPU open", where="--gpu", hint="--gpu a100-80, for example")
    return find_gpu(wishes.gpu)


def _in_partition(cluster: Cluster, everywhere: list[Place], wishes: Wishes) -> list[Place]:
    """Unless one is named, those for real work; partitions for tests are for tests."""
    wanted = wishes.partition
    if wanted is None:
        return [place for place in everywhere if place.partition.purpose == "batch"] or everywhere
    found = [place for place in everywhere if wanted == place.partition_name]
    if not found:
        hint = did_you_mean(wanted, cluster.partitions)
        raise UsageError(f"{cluster.name} has no partition {wanted!r}", where="--partition", hint=hint)
    return found


def _with_gpu(cluster: Cluster, everywhere: list[Place], found: list[Place], wishes: Wishes) -> list[Place]:
    wanted = wishes.gpu
    if wanted is None:
        return found
    fitting = [place for place in found if _is_called(place, wanted)]
    if fitting:
        return fitting
    elsewhere = [place for place in everywhere if _is_called(place, wanted)]
    if elsewhere and wishes.partition:
        has = ", ".join(sorted({place.gpu.key for place in found}))
        raise contradiction(wishes, "partition", "gpu", f"{wishes.partition} has {has}", _partitions(elsewhere))
    kinds = {place.gpu.key for place in everywhere}
    raise UsageError(f"{cluster.name} has no GPU {wanted!r}", where="--gpu", hint=did_you_mean(wanted, sorted(kinds)))


def _is_called(place: Place, wanted: str) -> bool:
    """By its name here, by its family (a100), or by the type that the site's Slurm has for it."""
    name = wanted.lower().replace("_", "-").removeprefix("nvidia-").removeprefix("amd-")
    return place.gpu.key == name or place.gpu.key.startswith(f"{name}-") or place.node.gres_type == wanted


def _with_room(found: list[Place], wishes: Wishes) -> list[Place]:
    if wishes.nodes:
        able = [place for place in found if place.allows(wishes.nodes * place.node.gpus)]
        if not able:
            raise _too_many(found, wishes, "nodes", wishes.nodes)
        found = able
    if wishes.gpus:
        able = [place for place in found if place.allows(wishes.gpus)]
        if not able:
            raise _too_many(found, wishes, "gpus", wishes.gpus)
        if wishes.nodes and all(place.nodes(wishes.gpus) != wishes.nodes for place in able):
            each = max(place.node.gpus for place in able)
            why = f"{wishes.nodes} node{'s' * (wishes.nodes > 1)} here: {wishes.nodes * each} GPUs"
            raise contradiction(wishes, "nodes", "gpus", why, f"--gpus {wishes.nodes * each}, or leave one of them out")
        found = able
    return found


def _too_many(found: list[Place], wishes: Wishes, name: str, count: int) -> UsageError:
    limits = ", ".join(dict.fromkeys(f"{place.partition_name}: {_sizes(place, name)}" for place in found))
    other = "partition" if wishes.partition else "gpu" if wishes.gpu else None
    if other:
        return contradiction(wishes, other, name, limits, "leave one of them out")
    thing = "nodes" if name == "nodes" else "GPUs"
    return UsageError(f"no partition gives a job {count:,} {thing}", where=f"--{name}", hint=f"there is {limits}")


def _sizes(place: Place, what: str) -> str:
    """'1 to 8 GCDs, or whole nodes of 8 up to 32 GCDs', '1 to 4 nodes of 8 GCDs'."""
    counts, each, unit = place.gpu_counts, place.node.gpus, place.node.unit
    if not counts:
        return "no job size that its profile allows"
    if what == "nodes":
        return f"{_range(place.nodes(counts[0]), place.most_nodes)} nodes of {each} {unit}s"
    parts = [count for count in counts if count <= each]
    whole = f"whole nodes of {each} up to {counts[-1]:,} {unit}s"
    if not parts or place.partition.whole_nodes:
        return whole
    here = f"{_range(parts[0], parts[-1])} {unit}{'s' if parts[-1] > 1 else ''}"
    return f"{here}, or {whole}" if counts[-1] > each else here


def _range(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _partitions(found: Iterable[Place]) -> str:
    return "there is " + ", ".join(dict.fromkeys(f"--partition {place.partition_name}" for place in found))


def contradiction(wishes: Wishes, first: str, second: str, why: str, hint: str) -> UsageError:
    pair = " and ".join(f"--{name} {getattr(wishes, name)}" for name in (first, second))
    return UsageError(f"contradict each other: {why}", where=pair, hint=hint)
