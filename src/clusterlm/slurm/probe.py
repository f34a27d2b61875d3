"""The profile of a cluster from what its own Slurm says, and a list of what Slurm does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from clusterlm.cluster.profile import Access, Billing, Cluster, NodeType, Request, Source
from clusterlm.errors import SlurmError, UsageError, did_you_mean
from clusterlm.slurm.gpu_kind import UNTYPED, checked_kinds, is_slice
from clusterlm.slurm.limits import for_others, partitions_of
from clusterlm.slurm.node_types import GpuNodes, gpu_nodes, price_of_gpu, told_apart
from clusterlm.slurm.observation import Observation

SOURCE = "probe"
NOT_SAID = (
    "whether compute nodes reach the internet: access.internet",
    "where home, project and scratch are, their quotas and after how many days they are cleaned: storage",
    "modules and containers that have torch: software",
    "whether memory may be asked for, and how much comes with a GPU: request.memory, host_memory_per_gpu_gib",
    "which network interface NCCL must use: network_interface",
    "who runs it: site",
)
"""What a user must fill in: Slurm knows none of it."""


@dataclass(frozen=True)
class Probed:
    """A profile made from what Slurm says, and what it does not say."""

    cluster: Cluster
    notes: tuple[str, ...]
    """What the user should look at: guesses, what is left out."""
    not_said: tuple[str, ...]


def probe(seen: Observation, name: str | None = None, gpu_kinds: Mapping[str, str] | None = None) -> Probed:
    """The profile, called `name`, or as Slurm calls the cluster. SlurmError where no node has a GPU."""
    told = checked_kinds(gpu_kinds or {})
    _refuse_unknown_types(seen, told)
    types = told_apart(gpu_nodes(seen.nodes, told))
    if not types:
        hint = "if they have: GresTypes=gpu and Gres=gpu:... are missing in the site's slurm.conf"
        raise SlurmError(f"no node of {seen.cluster_name} has GPUs, says its Slurm", hint=hint)
    prices = {key: price_of_gpu(nodes, seen) for key, nodes in types.items()}
    typed = all(nodes.gres_type for nodes in types.values())
    cluster = Cluster(
        name=name or seen.cluster_name.lower(),
        title=seen.cluster_name,
        source=SOURCE,
        checked=f"clusterlm clusters probe, {seen.date}",
        sources={SOURCE: Source(title=_title(seen), date=seen.date)},
        nodes={key: _node_type(nodes, prices[key]) for key, nodes in types.items()},
        partitions=partitions_of(seen, types, SOURCE),
        request=_request(seen, typed),
        billing=_billing(seen) if any(prices.values()) else None,
        access=Access(source=SOURCE, cluster_names=(seen.cluster_name,)),
    )
    used = {key for partition in cluster.partitions.values() for key in partition.nodes}
    cluster = replace(cluster, nodes={key: node for key, node in cluster.nodes.items() if key in used})
    if not used:
        raise SlurmError("no partition that is up has nodes with GPUs", hint="sinfo shows which partitions there are")
    return Probed(cluster, tuple(_notes(seen, types, cluster)), NOT_SAID)


def _title(seen: Observation) -> str:
    return f"{' and '.join(seen.asked)} of {seen.cluster_name}, Slurm {seen.version}"


def _node_type(nodes: GpuNodes, price: float | None) -> NodeType:
    return NodeType(
        source=SOURCE,
        unverified=() if nodes.kind.certain else ("gpu",),
        gpu=nodes.kind.key,
        gpus=nodes.gpus,
        unit="GCD" if nodes.kind.key == "mi250x" else "GPU",
        gres_type=nodes.gres_type,
        count=len(nodes.members),
        architecture="aarch64" if nodes.architecture == "aarch64" else "x86_64",
        cores=nodes.cores,
        cpus=nodes.cpus if nodes.cpus != nodes.cores else None,
        host_memory_gib=nodes.host_memory_gib,
        constraint=nodes.constraint,
        billing_units_per_gpu_hour=price,
    )


def _request(seen: Observation, typed: bool) -> Request:
    return Request(
        source=SOURCE,
        gres="typed" if typed else "untyped",
        account=seen.accounts_enforced and seen.default_account is None,
        account_name=seen.default_account if seen.accounts_enforced else None,
    )


def _billing(seen: Observation) -> Billing:
    how = "the highest" if seen.highest_weight_counts else "the sum"
    rule = (
        f"by Slurm's TRESBillingWeights: {how} of what cores, memory and GPUs weigh, for a GPU with its share of a node"
    )
    return Billing(source=SOURCE, unit="billing unit", rule=rule, unverified=("unit",))


def _refuse_unknown_types(seen: Observation, told: Mapping[str, str]) -> None:
    there = {gpu.type or UNTYPED for node in seen.nodes for gpu in node.gpus}
    for name in told:
        if name.lower() not in {known.lower() for known in there}:
            hint = did_you_mean(name, sorted(there))
            raise UsageError(f"Slurm has no GPUs of type {name!r}", where="--gpu-kind", hint=hint)


def _notes(seen: Observation, types: Mapping[str, GpuNodes], cluster: Cluster) -> Iterable[str]:
    for key, nodes in types.items():
        yield from _doubts_of_nodes(key, nodes)
    if slices := sorted({gpu.type or "" for node in seen.nodes for gpu in node.gpus if is_slice(gpu.type)}):
        yield f"slices of GPUs are left out: {', '.join(slices)}"
    if unused := sorted(set(types) - set(cluster.nodes)):
        yield f"in no partition that is up, and left out: {', '.join(unused)}"
    if closed := [part.name for part in seen.partitions if not part.usable]:
        yield f"partitions that are not up are left out: {', '.join(closed)}"
    if others := [part.name for part in seen.partitions if for_others(part, seen)]:
        yield f"partitions for other accounts than yours are left out: {', '.join(others)}"
    for key, partition in cluster.partitions.items():
        if "purpose" in partition.unverified:
            yield f"partitions.{key}: meant for tests or sessions, by its name alone"
    if cluster.request.account_name:
        yield f"request.account_name is your default account, {cluster.request.account_name}: leave it out for others"
    if cluster.billing:
        yield "billing: what the site calls a unit is not known, nor whether it charges by Slurm's weights"
    if seen.silent:
        yield f"limits of QoS and accounts are missing: {seen.silent}"


def _doubts_of_nodes(key: str, nodes: GpuNodes) -> Iterable[str]:
    kind, name = nodes.kind, nodes.gres_type or UNTYPED
    if not kind.possible:
        yield f"nodes.{key}: which GPU Slurm means by {name!r} is not known: --gpu-kind {name}=KEY tells it"
    elif not kind.certain:
        several = ", ".join(kind.possible)
        yield f"nodes.{key}: {name!r} can be {several}; taken as {kind.key}: --gpu-kind {name}=KEY tells it"
    low, high = nodes.memory_range_gib
    if high > 1.1 * low:
        yield f"nodes.{key}: their memory differs, from {low} to {high} GiB; the smallest counts"
    if nodes.lookalikes:
        others = ", ".join(nodes.lookalikes)
        yield f"nodes.{key}: no feature tells them from {others} in one partition: a job may get either"
