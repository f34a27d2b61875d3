"""Rows of fine-tuning: HF Trainer (fms-acceleration), PEFT's comparison, torchtune, fsdp_qlora, and the like."""

from __future__ import annotations

import re

from benchmarks.rows.conditions import NotCovered
from benchmarks.speed_rows.conditions import Asked, Given, dtype_of, gpu_of, links_of, quantised, shape_of, whole_number
from clusterlm.planning.case import Case
from clusterlm.planning.workload import Kernels, Method, Optimizer, Software, Workload
from clusterlm.strategy import Offload, Sharding, Strategy

VARYING_TOKENS = 350
"""Of a sample of instructions, where rows say "variable" and no cap."""
METAMATH_TOKENS = 240
"""Of a sample of MetaMathQA, question and answer; PEFT's comparison caps them at 768."""
ALPACA_TOKENS = 110
"""Of a sample of Alpaca, where rows do not pack."""
BUILDS_THE_CHANGE = 1.55
"""PEFT methods that compute a whole matrix of changes, or rotate the weights, in each forward pass."""
MANY_SMALL_PRODUCTS = 5.0
BUILDERS = frozenset(
    [
        "HIRA",
        "LOHA",
        "LOKR",
        "FOURIERFT",
        "WAVEFT",
        "FROD",
        "RANDLORA",
        "LILY",
        "PEANUT",
        "PROMPT_TUNING",
        "C3A",
        "VBLORA",
        "PSOFT",
        "OFT",
        "ADALORA",
    ]
)
SLOWEST = frozenset(["BOFT", "ADAMSS"])


def read_finetuning(given: Given) -> Asked:
    gpu, shape = gpu_of(given), shape_of(given)
    method, factor = method_of(given)
    count = whole_number(given, "n_gpus", 1)
    note, engine = given["note"], given["engine"].lower()
    quantise = quantised(given, shape)
    if method == "qlora" and quantise is None and shape.quantisation is None:
        quantise = "gptq-int4" if "gptq" in engine else "nf4"
    optimizer: Optimizer = "adamw-8bit" if re.search(r"8-bit AdamW|AdamW8bit", note) else "adamw-fused"
    offload: Offload = "cpu" if "cpu-offload" in engine or "CPU offload" in note else "none"
    sharding: Sharding = "none" if count == 1 else "ddp" if "DDP" in note else "fsdp2" if "FSDP2" in note else "fsdp1"
    workload = Workload(
        task="train",
        method=method,
        dtype=dtype_of(given, gpu),
        batch=whole_number(given, "batch", 1),
        sequence_tokens=tokens_of(given),
        checkpointing=checkpoints(given),
        attention="flash" if "fms" in given["source_key"] else "sdpa",
        optimizer=optimizer,
        quantise=quantise,
        lora_rank=32 if "peft" in given["source_key"] else 16,
        lora_targets=("q_proj", "v_proj") if "peft" in given["source_key"] else ("all-linear",),
        chunked_loss="chunked CE" in note,
        software=software_of(given),
    )
    strategy = Strategy(gpus=count, gpus_per_node=min(count, 8), sharding=sharding, offload=offload)
    return Asked(Case(shape, workload, strategy, gpu), links_of(gpu), counted="trained", factor=factor)


def method_of(given: Given) -> tuple[Method, float]:
    task = given["task"]
    if task in ("full", "pretrain", "sft", "finetune"):
        return "full", 1.0
    if task in ("lora", "qlora"):
        return task, 1.0  # type: ignore[return-value]
    if task.startswith("peft:"):
        name = task.removeprefix("peft:")
        if name == "OSF":
            return "full", 1.0
        return "lora", BUILDS_THE_CHANGE if name in BUILDERS else MANY_SMALL_PRODUCTS if name in SLOWEST else 1.0
    raise NotCovered(f"task {task[:30]!r}")


def tokens_of(given: Given) -> int:
    text = given["seq_len"]
    if "bucketed" in text or ("peft" in given["source_key"] and text.startswith("<")):
        return METAMATH_TOKENS
    if text.startswith(("variable", "<")) or not text:
        return VARYING_TOKENS
    if "unpacked" in given["note"]:
        return min(ALPACA_TOKENS, whole_number(given, "seq_len"))
    return whole_number(given, "seq_len")


def checkpoints(given: Given) -> bool:
    note = given["note"]
    if "without activation checkpointing" in note:
        return False
    return bool(re.search(r"GC on|AC yes|AC=True", note)) or "fsdp_qlora" in given["engine"].lower()


def software_of(given: Given) -> Software:
    text = given["engine"].lower()
    if "torchtune" in text:
        compiled = "compile" in given["note"] or bool(re.search(r"chunked CE|AC yes|LoRA", given["note"]))
        return Software(engine="torchtune" if compiled else "torchtune-eager", version=(0, 5), compiled=compiled)
    if "scattermoe" in text:
        alone = not re.search(r"-ep(?!1\b)\d+", text)
        kernels: Kernels = "fused" if "foak" in text else "plain"
        return Software(engine="scattermoe" if alone else "scattermoe-ep", version=(1,), kernels=kernels)
    if "fsdp_qlora" in text:
        return Software(version=(4, 38), engine="fsdp-qlora")
    if re.search(r"megatron|nemo|nanotron|neox|levanter", text):
        return Software(engine="llm-foundry", version=(0, 3))
    if not re.search(r"trainer|transformers|trl|peft|axolotl|accelerate|unsloth|lit-?gpt|deepspeed|fsdp", text):
        raise NotCovered(f"trainer {given['engine'][:40] or 'not stated'!r}")
    kernels = "fused-loss" if "liger" in text or "unsloth" in text else "fused" if "foak" in text else "plain"
    stated = re.search(r"transformers[ =]+(\d+)\.(\d+)", text)
    return Software(version=(int(stated.group(1)), int(stated.group(2))) if stated else (4, 45), kernels=kernels)


READERS = ((lambda given: True, read_finetuning),)
