"""Rows of fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from benchmarks.rows.conditions import (
    NotCovered,
    Question,
    dtype_of,
    gpu_of,
    quantised,
    shape_of,
    version_in,
    whole_number,
)
from clusterlm.planning.memory import footprint
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

LONGEST_TOKENS = 4096
"""fms-acceleration, scripts/benchmarks/defaults.yaml: max_seq_length."""


def read_trainer(asked: Mapping[str, str]) -> Question:
    """HF Trainer with gradient checkpointing, plain or with fused kernels, on one GPU or under FSDP1."""
    framework = re.search(r"framework=([\w-]+)", asked["notes"])
    name = framework.group(1) if framework else ""
    kernels = "fused-loss" if "liger" in name else "fused" if "foak" in name else "plain"
    version = version_in(asked, "transformers") or (4, 45)
    quantise = quantised(asked)
    method = {"full": "full", "lora": "lora", "qlora": "qlora"}.get(asked["task"])
    if method is None:
        raise NotCovered(f"method {asked['task']!r}")
    count = whole_number(asked, "n_gpus")
    targets = tuple(re.findall(r"\w+_proj|c_attn", asked["lora"].split(" on ")[-1])) if " on " in asked["lora"] else ()
    rank = re.search(r"r=(\d+)", asked["lora"])
    workload = Workload(
        task="train",
        method=method,  # type: ignore[arg-type]
        dtype=dtype_of(asked),
        autocast="mixed precision" in asked["dtype"],
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=LONGEST_TOKENS if varies(asked) else whole_number(asked, "seq_len"),
        checkpointing="yes" in asked["grad_ckpt"],
        attention="flash",
        accumulation=accumulates(asked),
        quantise=quantise,
        lora_rank=int(rank.group(1)) if rank else 16,
        lora_dropout="dropout" in asked["lora"],
        lora_targets=targets or ("all-linear",),
        cast_frozen_to_float32=name == "baseline-peft-bnb",
        software=Software(version=version, kernels=kernels),  # type: ignore[arg-type]
    )
    sharded = "FSDP" in asked["parallelism"]
    strategy = Strategy(gpus=count, gpus_per_node=count, sharding="fsdp1" if sharded and count > 1 else "none")
    found = Question(shape_of(asked), workload, strategy, gpu_of(asked))
    if varies(asked) and not same_at_any_length(found):
        raise NotCovered("sequence length varies, and decides")
    return found


def accumulates(asked: Mapping[str, str]) -> bool:
    found = re.search(r"grad_accum (\d+)", asked["notes"])
    return found is not None and int(found.group(1)) > 1


def varies(asked: Mapping[str, str]) -> bool:
    return asked["seq_len"].startswith("variable")


def same_at_any_length(asked: Question) -> bool:
    """Whether one token and the cap come to the same within 5 %: the optimizer step decides."""
    lengths = (1, LONGEST_TOKENS)
    works = [replace(asked.workload, sequence_tokens=length) for length in lengths]
    low, high = (footprint(asked.shape, work, asked.strategy, asked.gpu).allocated for work in works)
    return high <= 1.05 * low


def is_trainer(asked: Mapping[str, str]) -> bool:
    return "framework=" in asked["notes"]


READERS = ((is_trainer, read_trainer),)
