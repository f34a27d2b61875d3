"""Rows of pretraining: llm-foundry and torchtitan."""

from __future__ import annotations

import re
from functools import cache

from benchmarks.speed_rows.conditions import Asked, Given, dtype_of, gpu_of, links_of, shape_of, whole_number
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.case import Case
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Sharding, Strategy

MPT_SIZES = {
    "125m": (768, 12, 12), "350m": (1024, 16, 24), "760m": (1536, 12, 24), "1b": (2048, 16, 24), "3b": (2560, 20, 32),
    "7b": (4096, 32, 32), "13b": (5120, 40, 40), "30b": (7168, 56, 48), "70b": (8192, 64, 80),
}  # fmt: skip
"""Width, heads and layers: llm-foundry, scripts/train/yamls/pretrain/mpt-*.yaml; the parameters that the rows state
follow from them."""
MPT_VOCABULARY = 50368
UNCOMPILED = 1.16
"""Time of torchtitan without torch.compile over that with it: its first table has 6,667 and 5,762 tokens/s."""


@cache
def mpt_shape(size: str, sequence_tokens: int) -> ModelShape:
    width, heads, layers = MPT_SIZES[size]
    config = {
        "model_type": "mpt", "d_model": width, "n_heads": heads, "n_layers": layers, "expansion_ratio": 4,
        "max_seq_len": sequence_tokens, "vocab_size": MPT_VOCABULARY, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return shape_from_config(config, f"mpt-{size}")


def read_foundry(given: Given) -> Asked:
    """Composer's FSDP: PURE holds and reduces in 16 bits, DEFAULT under autocast reduces gradients in float32."""
    gpu, count = gpu_of(given), whole_number(given, "n_gpus")
    tokens = whole_number(given, "seq_len")
    size = re.search(r"mpt-(\w+)", f"{given['model']} {given['hf_id']}".lower())
    shape = mpt_shape(size.group(1), tokens) if size and size.group(1) in MPT_SIZES else shape_of(given)
    accumulated = re.search(r"grad accum (\d+)", given["note"])
    sharding: Sharding = "ddp" if "NO_SHARD" in given["note"] else "fsdp1"
    sharding = "zero2" if "SHARD_GRAD_OP" in given["note"] else sharding
    eight_bit = "fp8" in given["dtype"]
    workload = Workload(
        task="train",
        dtype=dtype_of(given, gpu),
        batch=whole_number(given, "batch"),
        sequence_tokens=tokens,
        checkpointing="AC=True" in given["note"],
        attention="flash",
        software=Software(engine="llm-foundry-fp8" if eight_bit else "llm-foundry", version=(0, 3)),
    )
    strategy = Strategy(gpus=count, gpus_per_node=min(count, 8), sharding=sharding if count > 1 else "none")
    steps = int(accumulated.group(1)) if accumulated else 1
    return Asked(Case(shape, workload, strategy, gpu, accumulation_steps=steps), links_of(gpu), counted="trained")


def read_torchtitan(given: Given) -> Asked:
    gpu, count = gpu_of(given), whole_number(given, "n_gpus")
    tensor = degree(given, "TP")
    stages, context = degree(given, "PP"), degree(given, "CP")
    text = given["dtype"].lower()
    kind = "-rowwise" if "rowwise" in text else "-fp8" if "float8" in text or "fp8" in text else ""
    overlapping = "-async" if re.search(r"async ?tp", given["note"], re.IGNORECASE) else ""
    full = "full AC" in given["note"]
    selective = "SAC" in given["note"] or not (full or "AC no" in given["note"])
    workload = Workload(
        task="train",
        dtype="bfloat16",
        autocast=True,
        batch=whole_number(given, "batch", 1),
        sequence_tokens=max(1, whole_number(given, "seq_len")),
        checkpointing=full or selective,
        selective_checkpointing=selective,
        software=Software(engine=f"torchtitan{kind}{overlapping}", compiled="compile" in given["engine"] + text),
    )
    cut = tensor * stages * context
    if count % cut:
        cut, tensor, stages, context = 1, 1, 1, 1
    strategy = Strategy(
        gpus=count,
        gpus_per_node=min(count, 8),
        tensor_degree=tensor,
        pipeline_degree=stages,
        context_degree=context,
        sharding="fsdp2",
    )
    factor = 1.0 if workload.software.compiled else UNCOMPILED
    return Asked(Case(shape_of(given), workload, strategy, gpu), links_of(gpu), counted="trained", factor=factor)


def degree(given: Given, word: str) -> int:
    found = re.search(rf"{word} ?(\d+)", given["note"])
    return int(found.group(1)) if found else 1


READERS = (
    (lambda given: "foundry" in given["engine"].lower() or "composer" in given["engine"].lower(), read_foundry),
    (lambda given: "torchtitan" in given["engine"].lower(), read_torchtitan),
)
