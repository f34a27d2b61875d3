"""Links: what the GPUs of a plan are joined by, and what feeds them."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.cluster import Gpu
from clusterlm.strategy import Strategy

USUAL_NODE_GB_PER_SECOND = 25.0
"""One port of 200 Gbit/s."""
USUAL_STORAGE_GB_PER_SECOND = 2.0
"""One client of a parallel file system."""
USUAL_ALL_STORAGE_GB_PER_SECOND = 500.0
"""A parallel file system to all its clients: an estimate between those of disks, some 250 as LUMI's, and those of
flash, as Perlmutter's with several thousand (published peaks; unverified), which other jobs share."""


@dataclass(frozen=True)
class Links:
    """One direction each."""

    gpu_gb_per_second: float
    """One GPU to the others of its node."""
    node_gb_per_second: float
    """One node into the network."""
    storage_gb_per_second: float
    """One node's read of weight files."""
    all_storage_gb_per_second: float = USUAL_ALL_STORAGE_GB_PER_SECOND
    """The same of all nodes together."""


def usual_links(gpu: Gpu) -> Links:
    """Where no cluster says."""
    return Links(gpu.gpu_link_gb_per_second, USUAL_NODE_GB_PER_SECOND, USUAL_STORAGE_GB_PER_SECOND)


def tensor_gb_per_second(strategy: Strategy, links: Links) -> float:
    """Of one GPU in a ring over those that cut matrices together; over nodes, it enters each through all its ports."""
    if strategy.tensor_degree <= strategy.gpus_per_node:
        return links.gpu_gb_per_second
    return min(links.gpu_gb_per_second, links.node_gb_per_second)


def stage_hops(strategy: Strategy) -> tuple[int, int]:
    """Hand-overs from stage to stage of one copy: within a node, and from node to node."""
    stages = strategy.pipeline_degree
    nodes = -(-strategy.tensor_degree * stages // strategy.gpus_per_node)
    between = min(stages, nodes) - 1
    return stages - 1 - between, between
