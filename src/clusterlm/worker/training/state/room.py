"""Room: what a training writes, in bytes, by the parameters of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterlm.spec import TrainSpec

STATE_BYTES = {
    "adamw": 8,
    "adamw-fused": 8,
    "adamw-8bit": 2,
    "paged-adamw-8bit": 2,
    "adafactor": 0,
    "sgd": 0,
}
"""Of the optimizer, for each parameter that is trained: two moments of float32, or of 8 bits."""


@dataclass(frozen=True, slots=True)
class Room:
    checkpoint_bytes: int
    result_bytes: int


def room_of(spec: TrainSpec, model: Any) -> Room:
    """Of an adapter the checkpoints hold it alone, and so does the result, unless it is merged."""
    trained = whole = saved = 0
    for weight in model.parameters():
        count = getattr(weight, "ds_numel", weight.numel())  # DeepSpeed's name for the size of what it has cut
        whole += count * weight.element_size()
        if weight.requires_grad:
            trained += count
            saved += count * weight.element_size()
    weights = whole if spec.method == "full" else saved
    return Room(weights + STATE_BYTES[spec.optimizer] * trained, whole + saved if spec.merge else weights)
