"""What a process of a training needs before it meets the others."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from clusterlm.worker.ranks import Ranks

Found = TypeVar("Found")


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


def same_for_all(look: Callable[[], Found]) -> Found:
    """What the first process sees; all of them ask. On other nodes a file may be seen a minute later."""
    if not dist.is_initialized():
        return look()
    found: list[Any] = [look() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    first: Found = found[0]
    return first


def gathered(own: Any) -> list[Any]:
    """Of each process its own, by rank; all of them ask."""
    if not dist.is_initialized():
        return [own]
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
