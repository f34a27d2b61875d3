"""Strategy: how one run is spread over GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sharding = Literal["none", "ddp", "fsdp1", "fsdp2", "zero1", "zero2", "zero3"]
Offload = Literal["none", "optimizer-cpu", "cpu", "nvme"]

CAN_OFFLOAD: dict[str, tuple[Offload, ...]] = {
    "fsdp": ("cpu",),
    "zero1": ("cpu", "optimizer-cpu"),
    "zero2": ("cpu", "optimizer-cpu"),
    "zero3": ("cpu", "optimizer-cpu", "nvme"),
}
"""What may leave the devices. ZeRO 1 and 2 keep the parameters whole: `cpu` is the optimizer's state then."""

UNCUT_BY_FSDP = ("adamw-8bit", "paged-adamw-8bit")
"""Optimizers whose kernels know no cut states. Source: https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1633"""

SHARDS_PARAMETERS = ("fsdp1", "fsdp2", "zero3")
SHARDS_GRADIENTS = ("fsdp1", "fsdp2", "zero2", "zero3")
SHARDS_OPTIMIZER = ("fsdp1", "fsdp2", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class Strategy:
    """GPUs and the degrees they are divided into; data degree = gpus / (tensor x pipeline x context)."""

    gpus: int = 1
    gpus_per_node: int = 1
    tensor_degree: int = 1
    pipeline_degree: int = 1
    context_degree: int = 1
    sharding: Sharding = "none"
    offload: Offload = "none"

    @property
    def data_degree(self) -> int:
        return self.gpus // (self.tensor_degree * self.pipeline_degree * self.context_degree)

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def model_shards(self) -> int:
        """Ranks that parameters are cut into by sharding; 1 where every rank holds them whole."""
        return self.data_degree * self.context_degree if self.sharding in SHARDS_PARAMETERS else 1

    @property
    def gradient_shards(self) -> int:
        return self.data_degree * self.context_degree if self.sharding in SHARDS_GRADIENTS else 1

    @property
    def optimizer_shards(self) -> int:
        return self.data_degree * self.context_degree if self.sharding in SHARDS_OPTIMIZER else 1
