"""What a process of a training needs before it meets the others."""

from __future__ import annotations

import torch

from clusterlm.worker.ranks import Ranks
from clusterlm.worker.training.strategies import rehearse_without_accelerator


def prepare_process(ranks: Ranks) -> None:
    """Of several on a node each takes its own device."""
    if not ranks.is_alone:
        rehearse_without_accelerator()
        if torch.accelerator.is_available():
            torch.accelerator.set_device_index(ranks.local_rank)


def backend() -> str:
    """For tensors on CPUs gloo, on devices the vendor's own."""
    if not torch.accelerator.is_available():
        return "gloo"
    device = torch.accelerator.current_accelerator()
    assert device is not None
    return f"cpu:gloo,{device.type}:{torch.distributed.get_default_backend_for_device(device)}"
