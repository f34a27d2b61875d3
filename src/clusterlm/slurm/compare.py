"""Where a profile and the site's Slurm say different things.

A profile may promise less than Slurm gives, since sites have rules that Slurm does not know; it is wrong where it
promises more, or where the two name a plain fact differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

from clusterlm.cluster.profile import Cluster, NodeType, Partition

NONE = "none"
PROMISES = ("cores", "cpus", "host_memory_gib")
"""Of a node: the profile may say less."""
CEILINGS = ("max_gpus", "max_nodes", "max_running", "max_submitted")
FLOORS = ("min_gpus", "min_nodes")
NOT_OPEN = "no partition with GPUs that is up and open to you"
NOT_COMPARED = "access, storage, software, how much memory and how many cores come with a GPU: Slurm does not know them"


@dataclass(frozen=True)
class Finding:
    """One field in which a profile and Slurm differ."""

    field: str
    """nodes.v100.gpus"""
    profile: str
    """What the profile says."""
    slurm: str


def differences(profile: Cluster, probed: Cluster) -> list[Finding]:
    """All of them; the profile's order, then what only Slurm has."""
    same = _same_types(profile, probed)
    return [
        *_names(profile, probed),
        *_all_nodes(profile, probed, same),
        *_all_partitions(profile, probed, same),
        *_accounts(profile, probed),
    ]


def not_compared(profile: Cluster, probed: Cluster) -> list[str]:
    """In sentences: what of the profile Slurm was not asked, or does not know."""
    queues = [key for key, part in profile.partitions.items() if part.qos and not _same_qos(key, part, probed)]
    return [NOT_COMPARED, *(f"the limits of partitions.{key}, which its QoS may change" for key in queues)]


def _same_qos(key: str, part: Partition, probed: Cluster) -> bool:
    slurms = _counterpart(key, part, probed)
    return slurms is not None and slurms.qos == part.qos


def _names(profile: Cluster, probed: Cluster) -> Iterator[Finding]:
    patterns, name = profile.access.cluster_names, probed.access.cluster_names[0]
    if patterns and not any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns):
        yield Finding("access.cluster_names", ", ".join(patterns), name)


def _same_types(profile: Cluster, probed: Cluster) -> dict[str, str]:
    """Which of Slurm's node types each of the profile's means."""
    pairs = {
        key: max(probed.nodes, key=lambda other: _likeness(key, node, other, probed.nodes[other]))
        for key, node in profile.nodes.items()
    }
    return {
        key: other for key, other in pairs.items() if _likeness(key, profile.nodes[key], other, probed.nodes[other])
    }


def _likeness(key: str, node: NodeType, other_key: str, other: NodeType) -> int:
    """0: they cannot be the same."""
    said, slurms = node.gres_type or key, other.gres_type or other_key
    alike = 4 * (said.lower() == slurms.lower()) + 3 * (node.gpu == other.gpu) + 2 * (_family(node) == _family(other))
    return alike and 2 * alike + (node.gpus == other.gpus) + (key == other_key)


def _family(node: NodeType) -> str:
    return node.gpu.rsplit("-", 1)[0]


def _all_nodes(profile: Cluster, probed: Cluster, same: Mapping[str, str]) -> Iterator[Finding]:
    for key, node in profile.nodes.items():
        if key in same:
            alone = list(same.values()).count(same[key]) == 1  # else Slurm's count is that of several of the profile's
            yield from _node(f"nodes.{key}", node, probed.nodes[same[key]], alone)
        else:
            yield Finding(f"nodes.{key}", f"{node.gpus} x {node.gpu}", NONE)
    for key, node in probed.nodes.items():
        if key not in same.values():
            yield Finding(f"nodes.{key}", NONE, f"{node.count} nodes of {node.gpus} x {node.gres_type or node.gpu}")


def _node(place: str, node: NodeType, slurms: NodeType, alone: bool) -> Iterator[Finding]:
    plain = ["gpus", "gres_type", "architecture", "billing_units_per_gpu_hour", *(["count"] if alone else [])]
    if "gpu" not in slurms.unverified and "any" not in (node.gpu, slurms.gpu):
        plain.insert(0, "gpu")
    for name in plain:
        said, there = getattr(node, name), getattr(slurms, name)
        if said is not None and there is not None and said != there:
            yield Finding(f"{place}.{name}", _shown(said), _shown(there))
    for name in PROMISES:
        said, there = getattr(node, name), getattr(slurms, name)
        if said is not None and there is not None and said > there:
            yield Finding(f"{place}.{name}", _shown(said), f"{_shown(there)} at most")


def _all_partitions(profile: Cluster, probed: Cluster, same: Mapping[str, str]) -> Iterator[Finding]:
    for key, part in profile.partitions.items():
        slurms = _counterpart(key, part, probed)
        if slurms is not None:
            yield from _partition(f"partitions.{key}", part, slurms, same)
        elif part.partition != "":
            yield Finding(f"partitions.{key}", part.partition or key, NOT_OPEN)
    asked = {part.partition or key for key, part in profile.partitions.items()}
    for key, part in probed.partitions.items():
        if (part.partition or key) not in asked and all(p.partition != "" for p in profile.partitions.values()):
            yield Finding(f"partitions.{key}", NONE, f"nodes {', '.join(part.nodes)}, up to {part.limit}")


def _counterpart(key: str, part: Partition, probed: Cluster) -> Partition | None:
    """Slurm's partition of that name, with the same QoS where there are several."""
    asked = key if part.partition is None else part.partition
    found = [other for name, other in probed.partitions.items() if (other.partition or name) == asked]
    return next((other for other in found if other.qos == part.qos), found[0] if found else None)


def _partition(place: str, part: Partition, slurms: Partition, same: Mapping[str, str]) -> Iterator[Finding]:
    known = [same[key] for key in part.nodes if key in same]
    if set(known) != set(slurms.nodes):
        yield Finding(f"{place}.nodes", ", ".join(part.nodes), ", ".join(slurms.nodes))
    if slurms.qos and part.qos != slurms.qos:
        yield Finding(f"{place}.qos", part.qos or NONE, f"{slurms.qos} must be named")
    if slurms.whole_nodes and not part.whole_nodes:
        yield Finding(f"{place}.whole_nodes", "no", "yes")
    if part.qos and part.qos != slurms.qos:
        return  # a QoS may lift the partition's limits
    if slurms.limit_seconds is not None and part.limit is not None and part.limit_seconds != slurms.limit_seconds:
        yield Finding(f"{place}.limit", part.limit, str(slurms.limit))
    for name in CEILINGS:
        said, there = getattr(part, name), getattr(slurms, name)
        if there is not None and (said is None or said > there):
            yield Finding(f"{place}.{name}", _shown(said), str(there))
    for name in FLOORS:
        said, there = getattr(part, name), getattr(slurms, name)
        if said < there:
            yield Finding(f"{place}.{name}", str(said), str(there))


def _accounts(profile: Cluster, probed: Cluster) -> Iterator[Finding]:
    request, slurms = profile.request, probed.request
    if slurms.account and not (request.account or request.account_name):
        yield Finding("request.account", "no", "every job needs one, and you have no default")
    if request.account_name and slurms.account_name and request.account_name != slurms.account_name:
        yield Finding("request.account_name", request.account_name, f"{slurms.account_name} is your default")
    if request.gres == "typed" and slurms.gres == "untyped":
        yield Finding("request.gres", request.gres, "the GPUs of some nodes have no type")


def _shown(value: object) -> str:
    if value is None:
        return "no limit"
    return f"{value:g}" if isinstance(value, float) else str(value)
