"""FSDP2 on one rank of many: the installed accelerate shards, and the other ranks may be imaginary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed
from torch._subclasses.fake_tensor import unset_fake_temporarily

from clusterlm.worker.trace.request import TraceRequest


@contextmanager
def imaginary_ranks(ranks: int) -> Iterator[None]:
    """A process group of which this process is rank 0: what it sends is dropped, what it receives is arbitrary."""
    if ranks == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shard(model: Any, request: TraceRequest) -> None:
    """Over all ranks of the process group, in the units and types of accelerate."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.device_mesh import init_device_mesh

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    if request.autocast:
        plugin.set_mixed_precision("bf16")
    with unset_fake_temporarily():  # the mesh computes with ranks
        mesh = init_device_mesh("cpu", (request.fsdp_ranks,), mesh_dim_names=("ranks",))
    # An Accelerator takes CPU ranks for plain data parallelism; these are the parts of it that sharding reads.
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh={("ranks",): mesh},
        parallelism_config=SimpleNamespace(fsdp_dim_names=("ranks",)),
        mixed_precision="bf16" if request.autocast else "no",
        device=torch.device("cpu"),
        is_main_process=False,
    )
    fsdp2_prepare_model(accelerator, model)
