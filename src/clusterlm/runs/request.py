"""From the best way of a plan to the job that Slurm is asked for."""

from __future__ import annotations

from pathlib import PurePath

from clusterlm.cluster import NodeType
from clusterlm.planning.candidates import Candidate
from clusterlm.slurm.job import Job

ACCOUNT = "ACCOUNT"
"""Stands for the user's own, which no profile knows."""


def job_of(one: Candidate, model: str) -> Job:
    """With the share of each node's CPUs and RAM that belongs to its GPUs."""
    place, node = one.place, one.place.node
    task, needs_account = one.case.workload.task, place.cluster.request.account
    on_node = one.allocated_gpus // one.nodes
    room = place.host_bytes(one.case.strategy.gpus)
    return Job(
        name=f"{task}-{PurePath(model).name}",
        partition=place.partition_name,
        node_type=place.node_name,
        nodes=one.nodes,
        gpus_per_node=on_node,
        seconds=one.duration.asked,
        command=("clusterlm", task, model),
        output="slurm-%j.out",
        cpus_per_task=_cpus(node, on_node),
        memory_gib=None if room is None else room // 2**30,
        account=ACCOUNT if needs_account and place.cluster.request.account_name is None else None,
    )


def _cpus(node: NodeType, gpus: int) -> int | None:
    """As Slurm counts them; None where the profile does not say."""
    there = node.cpus or node.cores
    if there is None:
        return None
    threads = there // node.cores if node.cores else 1
    share = node.cores_per_gpu * threads * gpus if node.cores_per_gpu else there * gpus // node.gpus
    return min(share, there)
