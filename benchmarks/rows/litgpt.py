"""Rows of LitGPT: fine-tuning by LoRA, adapters or in full, and the Thunder extension's pretraining."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.rows.conditions import NotCovered, Question, gpu_of, quantised, shape_of, whole_number
from clusterlm.planning.workload import Method, Optimizer, Software, Workload
from clusterlm.strategy import Sharding, Strategy

TARGET_WORDS = {
    "q": "query",
    "k": "key",
    "v": "value",
    "o": "projection",
    "proj": "projection",
    "mlp": "mlp",
    "head": "head",
}


def read_finetuning(asked: Mapping[str, str]) -> Question:
    method = method_of(asked)
    count = whole_number(asked, "n_gpus")
    sharded = "FSDP" in asked["parallelism"] and count > 1
    if sharded and method == "full":
        raise NotCovered("LitGPT full fine-tuning under FSDP: its accumulation is not stated")
    shape = shape_of(asked)
    workload = Workload(
        task="train",
        method=method,
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        longest_is_rare="longest sample" in asked["notes"],
        checkpointing=sharded,
        accumulation=True,
        quantise=quantised(asked),
        lora_rank=rank_of(asked),
        lora_targets=targets_of(asked),
        adapter_dtype="bfloat16",
        software=Software(engine="litgpt", version=version_of(asked)),
    )
    strategy = Strategy(gpus=count, gpus_per_node=count, sharding="fsdp1" if sharded else "none")
    return Question(shape, workload, strategy if sharded else Strategy(), gpu_of(asked))


def read_pretraining(asked: Mapping[str, str]) -> Question:
    """extensions/thunder/pretrain.py without its compiler."""
    if "eager" not in asked["software"]:
        raise NotCovered("compiled by Thunder")
    count = whole_number(asked, "n_gpus")
    sharding: Sharding = "fsdp1" if "FSDP" in asked["parallelism"] else "ddp" if count > 1 else "none"
    optimizer: Optimizer = "adamw-fused" if "fused" in asked["optimizer"] else "adamw"
    workload = Workload(
        task="train",
        method="full",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        accumulation=True,
        optimizer=optimizer,
        software=Software(engine="litgpt-pretrain", version=(0, 4)),
    )
    strategy = Strategy(gpus=count, gpus_per_node=count, sharding=sharding)
    return Question(shape_of(asked), workload, strategy, gpu_of(asked))


def method_of(asked: Mapping[str, str]) -> Method:
    words: dict[str, Method] = {"full": "full", "lora": "lora", "qlora": "lora"}
    if asked["task"] in words:
        return words[asked["task"]]
    if asked["task"] == "adapter":
        return "adapter-v2" if "v2" in asked["lora"] else "adapter-v1"
    raise NotCovered(f"method {asked['task']!r}")


def version_of(asked: Mapping[str, str]) -> tuple[int, ...]:
    return (0, 1) if "2023" in asked["software"] else (0, 4)


def rank_of(asked: Mapping[str, str]) -> int:
    found = re.search(r"r=(\d+)", asked["lora"])
    return int(found.group(1)) if found else 8


def targets_of(asked: Mapping[str, str]) -> tuple[str, ...]:
    """`q,v`, `qv`, `qkvomlphead`: the matrices that have adapters."""
    words = re.search(r" on ([\w,]+)", asked["lora"])
    found = re.findall(r"mlp|head|proj|[qkvo]", words.group(1)) if words else []
    return tuple(TARGET_WORDS[word] for word in found)


def is_finetuning(asked: Mapping[str, str]) -> bool:
    return asked["software"].startswith("LitGPT") and asked["task"] not in ("inference", "load")


def is_pretraining(asked: Mapping[str, str]) -> bool:
    return asked["task"] == "pretrain" and "thunder pretrain" in asked["dtype"]


READERS = ((is_finetuning, read_finetuning), (is_pretraining, read_pretraining))
