"""What of a user's own file only the libraries and the model can judge, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from clusterlm.errors import UsageError, did_you_mean
from clusterlm.spec import TrainSpec
from clusterlm.spec.own_strategy import OwnStrategy, own_strategy
from clusterlm.spec.own_strategy.value import AUTO


def check_own_strategy(spec: TrainSpec, skeleton: Any) -> None:
    """UsageError for the first thing that is wrong; nothing to do without such a file. `skeleton`: the model's."""
    own = own_strategy(spec)
    if own is None:
        return
    if own.on_cpu and torch.accelerator.is_available():
        hint = "CUDA_VISIBLE_DEVICES= hides the GPUs; or leave use_cpu out, and say MULTI_GPU"
        raise UsageError("wants processes on CPUs, and there are GPUs", where=own.where, hint=hint)
    _check_layers(own, skeleton)
    if own.deepspeed:
        _check_values(own)


def _check_layers(own: OwnStrategy, skeleton: Any) -> None:
    wanted = [
        *own.fsdp.get("transformer_layer_cls_to_wrap", ()),
        *filter(None, own.environment.get("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES", "").split(",")),
    ]
    known = sorted({type(module).__name__ for module in skeleton.modules()})
    for name in wanted:
        if name not in known:
            problem = f"names the layer {name!r}, which the model does not have"
            raise UsageError(problem, where=own.where, hint=did_you_mean(name, known))


def _check_values(own: OwnStrategy) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig({**_without_auto(own.deepspeed), "train_batch_size": 1})
    except (ValueError, TypeError, AssertionError, AttributeError, DeepSpeedConfigError) as problem:
        raise UsageError(f"DeepSpeed refuses it: {_words(problem)}", where=own.where) from None


def _words(problem: Exception) -> str:
    """Pydantic's account, a line; of others the first."""
    errors = getattr(problem, "errors", None)
    if errors is None:
        return str(problem).strip().split("\n")[0]
    return "; ".join(
        (f"{'.'.join(map(str, one['loc']))} = {one['input']!r}: " if one["loc"] else "") + one["msg"]
        for one in errors()
    )


def _without_auto(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the trainer fills in."""
    return {
        name: _without_auto(value) if isinstance(value, dict) else value
        for name, value in content.items()
        if value != AUTO
    }
