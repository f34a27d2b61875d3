"""What the reader of a plan on a cluster must know besides: cautions, the site's rules, facts that nobody checked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from clusterlm.cluster import Cluster
from clusterlm.cluster.profile import Sourced
from clusterlm.planning.candidates import Candidate
from clusterlm.planning.host import host_items
from clusterlm.planning.places import Place
from clusterlm.planning.planner import Plan
from clusterlm.planning.verdict import Verdict
from clusterlm.report.choice_words import billing_unit
from clusterlm.report.plan import gib

PLAIN_RAM = 16 * 2**30
"""What any machine with a GPU has."""
FOR_WORK = ("scratch", "fast", "project")
"""Uses of a storage area that may hold models and results."""
NODE_FACTS = {
    "gpu": "the kind of GPU",
    "gpus": "GPUs of a node",
    "gres_type": "the GPU's type in --gres",
    "count": "the number of nodes",
    "cores_per_gpu": "cores for each GPU",
    "cores": "cores of a node",
    "host_memory_gib": "RAM of a node",
    "host_memory_per_gpu_gib": "RAM for each GPU",
    "constraint": "--constraint",
    "nodelist": "--nodelist",
    "gpu_link_gb_per_second": "speed between GPUs",
    "network_gb_per_second": "speed of the network",
    "billing_units_per_gpu_hour": "price of a GPU-hour",
}
PARTITION_FACTS = {
    "limit": "time limit",
    "partition": "name for --partition",
    "qos": "QoS",
    "whole_nodes": "whole nodes",
    "min_gpus": "fewest GPUs",
    "max_gpus": "most GPUs",
    "min_nodes": "fewest nodes",
    "max_nodes": "most nodes",
}
REQUEST_FACTS = {"gres": "how GPUs are asked for", "account": "whether --account is needed", "memory": "--mem"}
BILLING_FACTS = {"unit": "the unit of the price", "rule": "the rule of the price"}
"""Of each table of a profile the fields that a plan rests on, in words."""


def notes(plan: Plan, verdict: Verdict, cluster: str) -> list[str]:
    """`cluster`: its name, or its file, as `clusterlm clusters show` takes it."""
    here = (*_of_place(plan.best, cluster), *_disk(plan.best, verdict)) if plan.best else ()
    return [*verdict.cautions, *_service(plan.cluster), *here, *plan.cluster.notes]


def _service(cluster: Cluster) -> Iterator[str]:
    if cluster.status != "retired":
        return
    since = f" on {cluster.until}" if cluster.until else ""
    successor = f"; its successor is {cluster.successor}: --on {cluster.successor}" if cluster.successor else ""
    yield f"{cluster.name} went out of service{since}: this can be planned, not submitted{successor}"


def _of_place(best: Candidate, shown: str) -> Iterator[str]:
    place = best.place
    cluster, partition = place.cluster, place.partition
    if partition.rule:
        yield f"partition {place.partition_name}: {partition.rule}"
    if cluster.billing and cluster.billing.rule and best.billing_units is not None:
        yield f"price in {billing_unit(cluster.billing)}: {cluster.billing.rule}"
    if best.duration.jobs > 1:
        yield f"one job would pass the limit of {partition.limit}: {best.duration.jobs:,} jobs, each continues the last"
    if cluster.access.internet is False:
        yield "compute nodes reach no network: fetch the model and the data before"
    elif cluster.access.internet is None and cluster.slurm:
        yield "whether compute nodes reach the network is not known: better fetch the model and the data before"
    needed = sum(item.bytes for item in host_items(best.case.shape, best.case.workload, best.case.strategy))
    if place.host_bytes(best.case.strategy.gpus) is None and needed > PLAIN_RAM:
        yield f"how much RAM its nodes have is not known here: this needs {gib(needed)} GiB of each"
    if unchecked := unverified(place):
        yield f"no source that was read confirms {'; '.join(unchecked)} (clusterlm clusters show {shlex.quote(shown)})"


def _disk(best: Candidate, verdict: Verdict) -> Iterator[str]:
    """Where no place for models and results is known to be large enough."""
    cluster = best.place.cluster
    areas = {name: area.quota_gib for name, area in cluster.storage.items() if area.use in FOR_WORK}
    quotas = {name: quota for name, quota in areas.items() if quota is not None}
    needed = sum(item.bytes for item in verdict.footprint.disk if not item.name.endswith("on each node"))
    if not quotas or len(quotas) < len(areas) or needed <= max(quotas.values()) * 2**30:
        return
    largest = max(quotas, key=lambda name: quotas[name])
    fewer = best.case.workload.trains and best.wishes.keep_checkpoints != 1
    way_out = "; --keep-checkpoints 1 needs less" if fewer else ""
    yield f"disk: {gib(needed)} GiB are needed; the largest place here, {largest}, gives {quotas[largest]:,g}{way_out}"


def unverified(place: Place) -> list[str]:
    """Facts of the profile that this plan rests on, and that were not seen in a source; those of a table together."""
    cluster = place.cluster
    priced = cluster.billing if place.node.billing_units_per_gpu_hour is not None else None
    tables: list[tuple[str, Sourced | None, dict[str, str]]] = [
        ("", place.node, NODE_FACTS),
        (f" of partition {place.partition_name}", place.partition, PARTITION_FACTS),
        ("", cluster.request if cluster.slurm else None, REQUEST_FACTS),
        ("", priced, BILLING_FACTS),
    ]
    return [
        ", ".join(found) + of
        for of, table, words in tables
        if table and (found := [words[name] for name in table.unverified if name in words])
    ]
