"""Workload: what one GPU is asked to do at once, and with which libraries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["generate", "embed", "train"]
Method = Literal["full", "lora", "qlora", "frozen", "adapter-v1", "adapter-v2"]
Optimizer = Literal["adamw", "adamw-fused", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd"]
Kernels = Literal["plain", "fused", "fused-loss"]


@dataclass(frozen=True)
class Software:
    """An engine and its version; `kernels` are fused replacements (FOAK, Liger) laid over it."""

    engine: str = "transformers"
    version: tuple[int, ...] = (5, 23)
    kernels: Kernels = "plain"
    torch: tuple[int, ...] = (2, 13)
    compiled: bool = False
    """The model goes through torch.compile or a like compiler."""


@dataclass(frozen=True)
class Workload:
    """What one GPU is asked to do at once."""

    task: Task = "generate"
    method: Method = "full"
    dtype: str = "bfloat16"
    """Type of the weights, as loaded; with `autocast`, training keeps float32 weights and computes in this type."""
    autocast: bool = False
    batch: int = 1
    """Sequences at once on one GPU: the micro-batch in training."""
    longest_is_rare: bool = False
    """`sequence_tokens` is the longest sample's; the micro-batches around it are far shorter."""
    sequence_tokens: int = 2048
    """Training: tokens of each sequence. Generation: tokens of the prompt."""
    new_tokens: int = 0
    checkpointing: bool = False
    selective_checkpointing: bool = False
    attention: Literal["sdpa", "flash", "eager"] = "sdpa"
    optimizer: Optimizer = "adamw"
    accumulation: bool = False
    """Gradients live on from micro-batch to micro-batch."""
    quantise: str | None = None
    """Weights are quantised while loading: nf4, nf4-dq, int8, gptq-int4 ... A checkpoint's own wins over it."""
    lora_rank: int = 16
    lora_dropout: bool = False
    """Adapters drop out some of their input, and keep the mask."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    adapter_dtype: str = "float32"
    kv_dtype: str | None = None
    cast_frozen_to_float32: bool = False
    """peft.prepare_model_for_kbit_training: norms, embedding and head in float32."""
    chunked_loss: bool = False
    max_sequences: int = 1024
    """vLLM: max_num_seqs."""
    max_batched_tokens: int = 8192
    """vLLM: max_num_batched_tokens."""
    cache_tokens: int | None = None
    """A key/value cache laid out beforehand for so many tokens of each sequence."""
    software: Software = field(default_factory=Software)

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass on one GPU."""
        return self.batch * self.sequence_tokens

    @property
    def trains(self) -> bool:
        return self.task == "train"
