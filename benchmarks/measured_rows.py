"""A row of published measurements as the question it answers: its conditions become a workload, never its value."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterlm.cluster import Gpu, gpus
from clusterlm.errors import ClusterlmError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

CONDITIONS = (
    "hf_id task dtype quantisation seq_len gen_len micro_batch grad_ckpt optimizer attn_impl lora parallelism n_gpus gpu "
    "software metric"
).split()
"""Columns that a prediction may read. `notes` is read for the words of NOTE_WORDS only: it also holds measured values."""
NOTE_WORDS = (
    r"framework=[\w-]+|decode-phase|pre-4\.45|chunked cross entropy|after model init|padding-free|grad_accum \d+"
    r"|kv_cache_dtype \w+|longest sample|optimizer_in_bwd"
)


@dataclass(frozen=True)
class Question:
    shape: ModelShape
    workload: Workload
    strategy: Strategy
    gpu: Gpu
    summed: bool = False
    """The value is a sum over GPUs, divided by their number."""
    only_phases: tuple[str, ...] = ()
    """The measurement saw these phases only; empty: all."""


class NotCovered(Exception):
    """A condition that the planner does not know, or that the row does not state."""


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def conditions(row: Mapping[str, str]) -> dict[str, str]:
    known = {name: (row.get(name) or "").strip() for name in CONDITIONS}
    return known | {"notes": " ".join(re.findall(NOTE_WORDS, row.get("notes") or ""))}


def question(row: Mapping[str, str]) -> Question:
    """NotCovered with the reason where the planner has no answer."""
    asked = conditions(row)
    for matches, read in READERS:
        if matches(asked):
            return read(asked)
    raise NotCovered(f"software {asked['software'][:40] or 'unstated'!r}")


def shape_of(asked: Mapping[str, str]) -> ModelShape:
    name = asked["hf_id"]
    if not name:
        raise NotCovered("model not named")
    config = catalogue_config(name)
    if config is None:
        raise NotCovered(f"{name} not in the catalogue")
    try:
        return shape_from_config(config, name)
    except ClusterlmError as problem:
        raise NotCovered(problem.problem) from None


GPU_WORDS = {
    "A100-SXM4-40GB": "a100-40",
    "A100-40": "a100-40",
    "A100": "a100-80",
    "A10G": "a10g",
    "A6000": "a6000",
    "H100": "h100-80",
    "H200": "h200",
    "H20": "h20-96",
    "B200": "b200",
    "L40S": "l40s",
    "V100-32": "v100-32",
    "4090": "rtx4090",
    "3090": "rtx3090",
    "Titan RTX": "titan-rtx",
}


def gpu_of(asked: Mapping[str, str]) -> Gpu:
    for word, key in GPU_WORDS.items():
        if word in asked["gpu"]:
            return gpus()[key]
    return gpus()["a100-80"]


def whole_number(asked: Mapping[str, str], column: str, default: int | None = None) -> int:
    text = asked[column]
    if text.isdigit():
        return int(text)
    if not text and default is not None:
        return default
    raise NotCovered(f"{column} is {text or 'not stated'!r}" if len(text) < 30 else f"{column} varies")


def version_in(asked: Mapping[str, str], library: str) -> tuple[int, ...] | None:
    found = re.search(rf"{library}[ =]+v?(\d+(?:\.\d+)+)", asked["software"])
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def dtype_of(asked: Mapping[str, str]) -> str:
    text = asked["dtype"].lower()
    for words, dtype in ((("fp32", "float32"), "float32"), (("fp16", "float16"), "float16")):
        if any(word in text for word in words):
            return dtype
    return "bfloat16"


QUANTISED = {
    "awq": "awq-int4",
    "gptq-int4": "gptq-int4",
    "gptq-int8": "gptq-int8",
    "bnb-nf4-dq": "nf4-dq",
    "bnb-nf4": "nf4",
    "fp8": "fp8-block",
    "int8": "int8",
    "none": None,
    "": None,
}


def quantised(asked: Mapping[str, str]) -> str | None:
    text = asked["quantisation"]
    for word, scheme in QUANTISED.items():
        if text == word or (word and text.startswith(word)):
            return scheme
    raise NotCovered(f"quantisation {text!r}")


def read_generate(asked: Mapping[str, str]) -> Question:
    """transformers' generate(): the Qwen speed tables."""
    version = version_in(asked, "transformers") or ((4, 37) if "pre-4.45" in asked["notes"] else None)
    if version is None:
        raise NotCovered("transformers version not stated")
    count = whole_number(asked, "n_gpus")
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked),
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        new_tokens=whole_number(asked, "gen_len", 0),
        attention="flash" if "flash" in asked["attn_impl"] else "sdpa",
        quantise=quantised(asked),
        software=Software(version=version),
    )
    return Question(
        shape_of(asked),
        workload,
        Strategy(gpus=count, gpus_per_node=count, pipeline_degree=count),
        gpu_of(asked),
        summed=count > 1,
        only_phases=("last token",) if "decode-phase" in asked["notes"] else (),
    )


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
        sequence_tokens=whole_number(asked, "seq_len"),
        checkpointing="yes" in asked["grad_ckpt"],
        attention="flash",
        quantise=quantise,
        lora_rank=int(rank.group(1)) if rank else 16,
        lora_targets=targets or ("all-linear",),
        cast_frozen_to_float32=name == "baseline-peft-bnb",
        software=Software(version=version, kernels=kernels),  # type: ignore[arg-type]
    )
    sharded = "FSDP" in asked["parallelism"]
    strategy = Strategy(gpus=count, gpus_per_node=count, sharding="fsdp1" if sharded and count > 1 else "none")
    return Question(shape_of(asked), workload, strategy, gpu_of(asked))


def read_vllm(asked: Mapping[str, str]) -> Question:
    version = version_in(asked, "vLLM")
    if version is None and "V1" not in asked["software"]:
        raise NotCovered("vLLM version not stated")
    degrees = dict(re.findall(r"(TP|PP|DP) (\d+)", asked["parallelism"]))
    limits = dict(re.findall(r"(max_num_\w+)=(\d+)", asked["micro_batch"]))
    tensor, stages = int(degrees.get("TP", 1)), int(degrees.get("PP", 1))
    stored = {"fp8": "fp8"}.get(asked["quantisation"])
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked) if "float" in asked["dtype"] else "bfloat16",
        quantise=stored,
        kv_dtype="float8_e4m3fn" if "kv_cache_dtype fp8" in asked["notes"] else None,
        max_sequences=int(limits.get("max_num_seqs", 1024)),
        max_batched_tokens=int(limits.get("max_num_batched_tokens", 8192)),
        software=Software(engine="vllm", version=version or (0, 10)),
    )
    count = tensor * stages
    strategy = Strategy(gpus=count, gpus_per_node=count, tensor_degree=tensor, pipeline_degree=stages)
    return Question(shape_of(asked), workload, strategy, gpu_of(asked))


Condition = Callable[[Mapping[str, str]], bool]
READERS: tuple[tuple[Condition, Callable[[Mapping[str, str]], Question]], ...] = (
    (lambda asked: asked["software"].startswith("vLLM"), read_vllm),
    (lambda asked: "framework=" in asked["notes"], read_trainer),
    (lambda asked: asked["task"] == "inference" and "torch" in asked["software"], read_generate),
)
