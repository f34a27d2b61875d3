"""Types of the weights and of the arithmetic, by the method and by what the device can."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clusterlm.errors import UsageError
from clusterlm.spec import TrainSpec
from clusterlm.spec.own_strategy import OwnStrategy, own_strategy

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """`weights` None: as they are saved. `autocast`: the type of the products, where it is another."""

    weights: torch.dtype | None
    autocast: torch.dtype | None


def precision_of(spec: TrainSpec) -> Precision:
    """float32 weights with products in 16 bits where a device has them; frozen weights in 16 bits beside an adapter.

    UsageError for a type that the device lacks.
    """
    own = own_strategy(spec)
    half = _half()
    if own is not None and spec.dtype == "auto" and own.mixed_precision in HALVES:
        half = _half_of(own, half)
    if spec.dtype == "bfloat16" and half is torch.float16:
        hint = "--dtype auto computes in float16 there, with float32 weights"
        raise UsageError(f"{torch.cuda.get_device_name()} has no bfloat16", where="--dtype bfloat16", hint=hint)
    if spec.dtype == "float32":
        return Precision(torch.float32, None)
    if spec.dtype == "auto" and half is None:
        return Precision(torch.float32 if spec.method == "full" else None, None)
    if spec.dtype == "auto":
        return Precision(torch.float32 if spec.method == "full" else half, half)
    chosen = torch.bfloat16 if spec.dtype == "bfloat16" else torch.float16
    return Precision(chosen, None if spec.method == "full" else chosen)


def _half_of(own: OwnStrategy, half: torch.dtype | None) -> torch.dtype:
    """As a user's own file wants it. A CPU has bfloat16 too, if slowly."""
    wanted = HALVES[own.mixed_precision or ""]
    if wanted is torch.bfloat16 and half is torch.float16:
        raise UsageError(f"wants bf16, and {torch.cuda.get_device_name()} has none", where=own.where, hint="fp16")
    if wanted is torch.float16 and half is None:
        raise UsageError("wants fp16, and there is no GPU", where=own.where, hint="bf16, or no")
    return wanted


def _half() -> torch.dtype | None:
    """Of the accelerator; None on a CPU, where float32 is what every machine does well."""
    if not torch.accelerator.is_available():
        return None
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
