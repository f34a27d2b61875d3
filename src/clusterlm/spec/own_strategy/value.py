"""OwnStrategy: what a user's own file asks for, checked, in our words where we have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AUTO = "auto"
"""In DeepSpeed's file: as the trainer has it."""
MixedPrecision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnStrategy:
    """None and {}: the file does not say."""

    where: str
    """What the user calls the file."""
    strategy: Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3"]
    offload: Literal["none", "optimizer-cpu", "cpu"] = "none"
    processes: int | None = None
    machines: int = 1
    mixed_precision: MixedPrecision | None = None
    gradient_checkpointing: bool | None = None
    on_cpu: bool = False

    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """What DeepSpeed is given of it, in its words."""
    fsdp: Mapping[str, Any] = field(default_factory=dict)
    """What FSDP is given of it, in the words of transformers."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What accelerate can be told by variables alone."""

    said_by_flags: Mapping[str, Any] = field(default_factory=dict)
    """What our flags say too, in DeepSpeed's words: sizes of batches, clipping, optimizer, scheduler."""
    notes: tuple[str, ...] = ()
