"""The golden scripts: one array of single GPUs and one job of several processes for every shipped Slurm cluster.

`python -m tests.golden.scripts` writes them anew; review the difference by hand before it is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterlm.cluster import Cluster, NodeType, Partition, read_cluster, shipped_clusters
from clusterlm.slurm.environment import in_container
from clusterlm.slurm.header import log_path
from clusterlm.slurm.job import Job
from clusterlm.slurm.script import script

FOLDER = Path(__file__).parent / "scripts"
RUN = "/scratch/project_1/it's a run/answers.jsonl.run"
PYTHON = "/home/ada/clusterlm/bin/python"
PACKAGE = "/home/ada/clusterlm/lib/python3.12/site-packages/clusterlm"
CONTAINERS = {
    "lumi": "/appl/local/laifs/containers/lumi-multitorch-latest.sif",
    "jupiter": "/scratch/project_1/pytorch-arm64.sif",
    "clariden": "/users/ada/pytorch.toml",
    "generic": "nvcr.io#nvidia/pytorch:25.06-py3",
}


def clusters() -> list[Cluster]:
    found = [read_cluster(path) for path in shipped_clusters().values()]
    return [cluster for cluster in found if cluster.slurm and cluster.status == "current"]


def cases() -> Iterator[tuple[str, Cluster, Job]]:
    """Name of the file, and what it is made of."""
    for cluster in clusters():
        yield f"{cluster.name}-array", cluster, array(cluster)
        yield f"{cluster.name}-ranks", cluster, ranks(cluster)
        if cluster.name in CONTAINERS:
            place = in_container(CONTAINERS[cluster.name], PACKAGE)
            yield f"{cluster.name}-container", cluster, ranks(cluster, environment=place)


def array(cluster: Cluster) -> Job:
    """Six shards, three at once, on one GPU each."""
    tasks = tuple(range(6))
    return _job(cluster, _partition_for(cluster, nodes=1, gpus=1), nodes=1, gpus=1, tasks=tasks, tasks_at_once=3)


def ranks(cluster: Cluster, **changes: Any) -> Job:
    """All GPUs of two nodes, or of one where a job cannot have more, with a process on each."""
    for nodes in (2, 1):
        for name in sorted(cluster.partitions, key=lambda name: cluster.partitions[name].purpose != "batch"):
            gpus = cluster.nodes[cluster.partitions[name].nodes[0]].gpus
            if _takes(cluster.partitions[name], nodes, gpus):
                return _job(cluster, name, nodes=nodes, gpus=gpus, ranks_per_node=gpus, **changes)
    raise AssertionError(f"{cluster.name} takes no job of whole nodes")


def _partition_for(cluster: Cluster, nodes: int, gpus: int) -> str:
    """The first one for work, where the rest of the node is not paid for if that can be had."""
    names = [name for name, part in cluster.partitions.items() if _takes(part, nodes, gpus)]
    return min(
        names, key=lambda name: (cluster.partitions[name].purpose != "batch", cluster.partitions[name].whole_nodes)
    )


def _takes(part: Partition, nodes: int, gpus: int) -> bool:
    fits_nodes = part.min_nodes <= nodes <= (part.max_nodes or nodes)
    fits_gpus = part.min_gpus <= nodes * gpus <= (part.max_gpus or nodes * gpus)
    return fits_nodes and fits_gpus and part.purpose != "interactive"


def _job(cluster: Cluster, partition: str, *, nodes: int, gpus: int, **more: Any) -> Job:
    part = cluster.partitions[partition]
    node = cluster.nodes[part.nodes[0]]
    return Job(
        name="generate-Mistral-7B-v0.1",
        partition=partition,
        node_type=part.nodes[0],
        nodes=nodes,
        gpus_per_node=gpus,
        cpus_per_task=_cpus(node, gpus),
        memory_gib=None if node.host_memory_gib is None else int(node.host_memory_gib * gpus / node.gpus),
        seconds=min(8 * 3600, part.limit_seconds or 8 * 3600),
        account="project_1",
        run=RUN,
        python=PYTHON,
        output=log_path(RUN, more.get("tasks")),
        signal_seconds=120,
        **more,
    )


def _cpus(node: NodeType, gpus: int) -> int | None:
    there = node.cpus or node.cores
    if there is None or not node.cores:
        return None
    share = node.cores_per_gpu * (there // node.cores) * gpus if node.cores_per_gpu else there * gpus // node.gpus
    return min(share, there)


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.sbatch"):
        old.unlink()
    for name, cluster, job in cases():
        (FOLDER / f"{name}.sbatch").write_text(script(cluster, job), encoding="utf-8")


if __name__ == "__main__":
    write()
