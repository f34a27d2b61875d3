"""The model off the GPU: bytes of its weights as published, as loaded, and as a checkpoint of training keeps them."""

from __future__ import annotations

from clusterlm.model.shape import BYTES_PER_ELEMENT, ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.weights import element_bytes, scheme_of, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

ADAPTER_BYTES = 4.0
"""peft keeps trainable adapters in float32 (autocast_adapter_dtype)."""
OPTIMIZER_BYTES_PER_STATE_BYTE = {"adamw": 2.0, "adamw-fused": 2.0, "sgd": 0.0, "adafactor": 0.0}
"""Two moments as large as the parameter; none; Adafactor's rows and columns are negligible on a disk."""
OPTIMIZER_8BIT_BYTES = 2 + 8 / 256
"""Both moments in 8 bits, a float32 scale for each block of 256 (bitsandbytes)."""
DEEPSPEED_STATE_BYTES = 12.0
"""float32 master weights and two moments."""


def weight_element_bytes(workload: Workload) -> float:
    """Bytes of an unquantised weight on the GPU: autocast trains float32 weights."""
    return 4.0 if workload.autocast and workload.method == "full" else element_bytes(workload.dtype)


def published_bytes(shape: ModelShape) -> int:
    """The weight files as published: the checkpoint's own type, or its own quantisation."""
    dtype = shape.dtype if shape.dtype in BYTES_PER_ELEMENT else "bfloat16"
    return weight_sizes(shape, dtype, scheme_of(shape, None)).total


def loaded_bytes(shape: ModelShape, workload: Workload) -> int:
    """All weights as one process holds them after loading."""
    if workload.autocast and workload.method == "full":
        return shape.parameters * 4
    return weight_sizes(shape, workload.dtype, scheme_of(shape, workload.quantise)).total


def checkpoint_bytes(shape: ModelShape, workload: Workload, strategy: Strategy) -> tuple[int, int]:
    """Of one training checkpoint: weights (or adapters), and optimizer states."""
    trained = trained_parameters(shape, workload)
    size = weight_element_bytes(workload) if workload.method == "full" else ADAPTER_BYTES
    if strategy.sharding.startswith("zero"):
        return round(trained * size), round(trained * DEEPSPEED_STATE_BYTES)
    if workload.optimizer.endswith("8bit"):
        return round(trained * size), round(trained * OPTIMIZER_8BIT_BYTES)
    return round(trained * size), round(trained * size * OPTIMIZER_BYTES_PER_STATE_BYTE[workload.optimizer])
