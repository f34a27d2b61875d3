"""The model to be trained: checked by its configuration first, then loaded as the method wants it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from clusterlm.errors import ModelError, UsageError, nearest
from clusterlm.spec import TrainSpec
from clusterlm.worker.loading import context_tokens, read_config
from clusterlm.worker.training.precision import Precision

ALL_LINEAR = "all-linear"
USUAL_SEQUENCE = 2048
"""Tokens, where the model can take as many and nothing else was asked for."""


def row_tokens(config: Any, spec: TrainSpec) -> int:
    """Most tokens of a sequence. UsageError where the model has no positions for what was asked."""
    most = context_tokens(config)
    if spec.sequence_length is None:
        return min(USUAL_SEQUENCE, most or USUAL_SEQUENCE)
    if most is not None and spec.sequence_length > most:
        problem = f"the model has positions for {most:,} tokens, not for {spec.sequence_length:,}"
        raise UsageError(problem, where="--sequence-length", hint=f"--sequence-length {most}")
    return spec.sequence_length


def skeleton_of(path: Path, spec: TrainSpec) -> Any:
    """The model without its weights, with the attention that it will have. ModelError where it cannot be made."""
    with _told_as_model_error(path), torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(path), **_attention(spec))


def attention_of(skeleton: Any) -> str:
    """The kernel that will compute attention: sdpa, eager, flash_attention_2."""
    return str(skeleton.config._attn_implementation)


def adapter_config(skeleton: Any, spec: TrainSpec) -> LoraConfig | None:
    """None where all weights are trained. UsageError for targets that the model does not have, before it is loaded."""
    if spec.method == "full":
        return None
    targets: Any = list(spec.lora_targets)
    if targets == [ALL_LINEAR]:
        targets = ALL_LINEAR
    else:
        _check_targets(skeleton, targets)
    return LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def _check_targets(skeleton: Any, targets: list[str]) -> None:
    head = skeleton.get_output_embeddings()
    modules = [(name, module) for name, module in skeleton.named_modules() if module is not head]
    linear = [name for name, module in modules if isinstance(module, nn.Linear) or _is_conv1d(module)]
    known = sorted({name.rpartition(".")[2] for name in linear})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            close = nearest(target, known)
            guess = f"did you mean {close!r}? " if close else ""
            hint = f"{guess}there are: {', '.join(known)}; or {ALL_LINEAR}"
            problem = f"the model has no linear layer {target!r}"
            if getattr(skeleton, target, None) is head is not None:
                problem = f"the output layer {target!r} gets no adapter: the loss follows from its weight alone"
            raise UsageError(problem, where="--lora-targets", hint=hint)


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"  # GPT-2's linear layer


def load_for_training(path: Path, spec: TrainSpec, precision: Precision) -> Any:
    """The weights on the CPU, those of 4 bits on the GPU; the trainer moves or shards them.

    ModelError where they cannot be loaded.
    """
    arguments: dict[str, Any] = {"dtype": precision.weights or "auto", "use_cache": False, **_attention(spec)}
    if spec.method == "qlora":
        arguments["quantization_config"] = _four_bits(precision)
    with _told_as_model_error(path):
        return AutoModelForCausalLM.from_pretrained(path, **arguments)


def _attention(spec: TrainSpec) -> dict[str, Any]:
    if spec.attention == "auto":
        return {}
    return {"attn_implementation": "flash_attention_2" if spec.attention == "flash" else spec.attention}


@contextlib.contextmanager
def _told_as_model_error(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ValueError, OSError, KeyError, RuntimeError, ImportError) as problem:
        first = str(problem).strip().split("\n")[0]
        raise ModelError(f"cannot be loaded: {first}", where=str(path)) from None


def _four_bits(precision: Precision) -> BitsAndBytesConfig:
    """QLoRA's: nf4, the scales quantised too; stored as if of the type of the others, for FSDP cuts no integers."""
    compute = precision.autocast or torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=compute,
    )
