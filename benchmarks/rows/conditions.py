"""A row of published measurements as the question it answers: its conditions become a workload, never its value."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterlm.cluster import Gpu, gpus
from clusterlm.errors import ClusterlmError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

CONDITIONS = [
    "hf_id",
    "task",
    "dtype",
    "quantisation",
    "seq_len",
    "gen_len",
    "micro_batch",
    "grad_ckpt",
    "optimizer",
    "attn_impl",
    "lora",
    "parallelism",
    "n_gpus",
    "gpu",
    "software",
    "metric",
]
"""Columns that a prediction may read; of `notes`, which also hold measured values, only the words of NOTE_WORDS."""
NOTE_WORDS = (
    r"framework=[\w-]+|decode-phase|pre-4\.45|chunked cross entropy|after model init|padding-free|grad_accum \d+"
    r"|kv_cache_dtype \w+|longest sample|optimizer_in_bwd|torch 2\.\d+"
)


@dataclass(frozen=True)
class Question:
    shape: ModelShape
    workload: Workload
    strategy: Strategy
    gpu: Gpu
    summed: bool = False
    """The value is a sum over GPUs, divided by their number."""
    lightest_gpu: bool = False
    """The value is of the GPU that holds the least: the one that is ready, and logs, first."""
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
    "H100-96": "gh200-96",
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
