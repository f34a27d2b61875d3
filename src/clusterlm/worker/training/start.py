"""What a process of a training needs before it meets the others."""

from __future__ import annotations

import resource
from typing import Any

import torch
import torch.distributed as dist

from clusterlm.worker.ranks import Ranks


def prepare_process(ranks: Ranks) -> None:
    """Of several on a node each takes its own device."""
    if not ranks.is_alone and torch.accelerator.is_available():
        torch.accelerator.set_device_index(ranks.local_rank)


def backend() -> str:
    """For tensors on CPUs gloo, on devices the vendor's own."""
    if not torch.accelerator.is_available():
        return "gloo"
    device = torch.accelerator.current_accelerator()
    assert device is not None
    return f"cpu:gloo,{device.type}:{torch.distributed.get_default_backend_for_device(device)}"


def peak_host_bytes() -> int:
    """Of this process's memory, the most at once until now."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def gathered(own: Any) -> list[Any]:
    """Of each process its own, by rank; all of them ask."""
    if not dist.is_initialized():
        return [own]
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
