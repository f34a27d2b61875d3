"""Rows that were read off the card (nvidia-smi and the like): Qwen's first tables, the documents of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from benchmarks.rows.conditions import NotCovered, Question, dtype_of, gpu_of, quantised, shape_of, whole_number
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Sharding, Strategy

QWEN_TRANSFORMERS = (4, 32)
"""Qwen's README of 2023: transformers >= 4.32."""
QWEN_TORCH = (2, 0)
DOCUMENTS_TORCH = (1, 12)
"""transformers 4.2x is of 2022."""
PEFT_TRANSFORMERS = (4, 38)
"""PEFT's guides on DeepSpeed and FSDP are of March 2024."""
SHARDING: tuple[tuple[str, Sharding], ...] = (("ZeRO-3", "zero3"), ("ZeRO-2", "zero2"), ("FSDP", "fsdp1"))


def read_qwen_generation(asked: Mapping[str, str]) -> Question:
    """Qwen's own model class: the legacy cache, 16-bit logits; from an empty prompt where none is named."""
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked),
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len", 1),
        new_tokens=whole_number(asked, "gen_len"),
        quantise=quantised(asked),
        kv_dtype="int8" if "int8 kv" in asked["dtype"] else None,
        software=Software(version=QWEN_TRANSFORMERS, torch=QWEN_TORCH),
    )
    return Question(shape_of(asked), workload, Strategy(), gpu_of(asked))


def read_qwen_training(asked: Mapping[str, str]) -> Question:
    """Qwen's finetune.py: HF Trainer in mixed precision, with LoRA (DeepSpeed where several GPUs are named)."""
    if "embedding+output trainable" in asked["lora"]:
        raise NotCovered("embedding and head trained whole beside the adapters")
    if asked["task"] == "full" and "DeepSpeed" not in asked["parallelism"]:
        raise NotCovered("Qwen's finetune_ds.sh on one GPU: DeepSpeed's stage not stated")
    return _trained(asked, Software(version=QWEN_TRANSFORMERS, torch=QWEN_TORCH), autocast=True)


def read_peft_documents(asked: Mapping[str, str]) -> Question:
    return _trained(asked, Software(version=PEFT_TRANSFORMERS), autocast=True)


def read_transformers_documents(asked: Mapping[str, str]) -> Question:
    """Model memory anatomy, BERT large on a V100."""
    software = Software(version=(4, 20), torch=DOCUMENTS_TORCH)
    if asked["task"] == "context only":
        raise NotCovered("no model on the GPU: the CUDA context alone")
    if asked["task"] == "inference static":
        workload = Workload(task="generate", dtype=dtype_of(asked), software=software)
        return Question(shape_of(asked), workload, Strategy(), gpu_of(asked), only_phases=("load",))
    return _trained(asked, software, autocast=False)


def _trained(asked: Mapping[str, str], software: Software, *, autocast: bool) -> Question:
    if asked["task"] not in ("full", "lora", "qlora"):
        raise NotCovered(f"task {asked['task']!r}")
    count = whole_number(asked, "n_gpus")
    sharding: Sharding = next((key for word, key in SHARDING if word in asked["parallelism"]), "none")
    targets = tuple(re.findall(r"\w+_proj|\bw1\b|\bw2\b", asked["lora"].split(" on ")[-1]))
    rank = re.search(r"r=(\d+)", asked["lora"])
    workload = Workload(
        task="train",
        method=asked["task"],  # type: ignore[arg-type]
        dtype=dtype_of(asked),
        autocast=autocast and asked["task"] == "full",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        checkpointing="yes" in asked["grad_ckpt"],
        attention="flash" if "flash" in asked["attn_impl"] else "eager",
        accumulation=True,
        quantise=quantised(asked),
        lora_rank=int(rank.group(1)) if rank else 16,
        lora_targets=targets or ("all-linear",),
        software=software,
    )
    strategy = Strategy(
        gpus=count,
        gpus_per_node=count,
        sharding=sharding if count > 1 else "none",
        offload="cpu" if "CPU offload" in asked["parallelism"] else "none",
    )
    return Question(shape_of(asked), workload, strategy, gpu_of(asked))


def refuse(reason: str) -> Callable[[Mapping[str, str]], Question]:
    def read(asked: Mapping[str, str]) -> Question:
        raise NotCovered(reason)

    return read


def is_qwen_table(asked: Mapping[str, str]) -> bool:
    """The only rows that name PyTorch and CUDA, and no transformers."""
    return asked["software"].startswith("PyTorch 2.0") and "CUDA" in asked["software"]


READERS = (
    (lambda asked: is_qwen_table(asked) and asked["task"] == "inference", read_qwen_generation),
    (is_qwen_table, read_qwen_training),
    (lambda asked: asked["software"] == "transformers 4.2x docs", read_transformers_documents),
    (lambda asked: asked["software"] == "2024" and "nvidia-smi" in asked["metric"], read_peft_documents),
    (
        lambda asked: asked["software"].startswith("accelerate 2022"),
        refuse("one of several devices that device_map fills to the brim, the rest spilled to CPU and disk"),
    ),
    (
        lambda asked: "glm-4" in asked["hf_id"] and asked["software"].startswith("transformers 2024"),
        refuse("GLM-4's own model code of 2024, which is not in transformers"),
    ),
    (
        lambda asked: asked["software"].startswith("axolotl 2024"),
        refuse("gradient checkpointing and optimizer not stated"),
    ),
)
