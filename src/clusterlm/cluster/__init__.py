"""What a site offers: GPUs (gpus.toml) and clusters (clusters/*.toml), each fact with its source and date."""

from clusterlm.cluster.files import (
    find_cluster,
    known_clusters,
    path_of_cluster,
    read_cluster,
    readable_clusters,
    recognise,
    shipped_clusters,
)
from clusterlm.cluster.gpu import GIB, Gpu, find_gpu, gpus
from clusterlm.cluster.profile import Cluster, NodeType, Partition

__all__ = [
    "GIB",
    "Cluster",
    "Gpu",
    "NodeType",
    "Partition",
    "find_cluster",
    "find_gpu",
    "gpus",
    "known_clusters",
    "path_of_cluster",
    "read_cluster",
    "readable_clusters",
    "recognise",
    "shipped_clusters",
]
