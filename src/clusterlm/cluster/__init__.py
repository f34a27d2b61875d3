"""What a site offers: GPUs (gpus.toml) and clusters (clusters/*.toml), each fact with its source and date."""

from clusterlm.cluster.gpu import GIB, Gpu, find_gpu, gpus
from clusterlm.cluster.profile import Cluster, NodeType, Partition

__all__ = ["GIB", "Cluster", "Gpu", "NodeType", "Partition", "find_gpu", "gpus"]
