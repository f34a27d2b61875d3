"""What is known of GPUs and engines before any row is read: where the constants that benchmarks.speed_fit learns begin,
which way they are pulled, and how far they may go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterlm.planning.efficiency import Generating, Stored, Training

REACHABLE = {
    "a100-40": 0.859, "a100-64": 0.859, "a100-80": 0.859, "gh200-96": 0.83, "h100-64": 0.801, "h100-80": 0.801,
    "h100-94": 0.801, "h200": 0.803, "b200": 0.776, "mi250x": 0.61, "mi300x": 0.601, "h20-96": 0.95, "l40s": 0.60,
    "l40": 0.85, "l4": 0.5, "a10g": 0.85, "a40": 0.75, "a6000": 0.75, "rtx3090": 0.90, "rtx4090": 0.90,
    "rtx4060-laptop": 0.80, "t4": 0.40, "rtx6000": 0.70, "titan-rtx": 0.70, "v100-16": 0.75, "v100-32": 0.75,
    "other": 0.75,
}  # fmt: skip
"""Largest measured products over the data sheet's peak: Stas Bekman, ml-engineering, "Maximum Achievable Matmul FLOPS"
for A100, H100, GH200, H200, B200 and MI300X; the others are estimates (cards that their power limit holds down reach
less of a high peak: L40S, L4, T4). Of the MI250X its 0.767 of products alone is more than whole steps show: MosaicML
trained MPT-1B to 13B on an MI250 (June 2023) at 0.73 of an A100-80, 1.13 times that with ROCm 5.7 and FlashAttention 2
(October 2023), and the MI250X has 383 TFLOPS where the MI250 has 362: 0.87 of an A100, each of its two GCDs 0.436 of
312 x 0.859."""
REACHABLE_MEMORY = {"h20-96": 0.75}
"""Qwen3-32B in 16 bits reads 65 GB a token in 38 to 48 ms, 1.4 to 1.7 of 4 TB/s: 78 multiprocessors do not draw it."""
LEAST_COMPUTE_SHARE = 0.35
MOST_WEIGHT_SHARE = 0.92
"""What copies reach of the memory's bandwidth."""
MOST_CACHE_PASSES = 6.0
"""A cache that is copied to grow by a token is read, written, and read by attention, at some 60 % of the bandwidth."""
LEAST_ATTENTION_SHARE = 0.15
LARGEST_SHARE = 1.0
FIXED = {("generating", "vllm 0.4"): {"eager_after_tokens": 8192.0}}
"""Known without a measurement: vLLM 0.4's max_seq_len_to_capture."""
STARTS = {
    ("generating", "transformers 4.4x"): {"expert_microseconds": 100.0},
    ("training", "transformers"): {"expert_microseconds": 100.0},
    ("training", "scattermoe"): {"expert_microseconds": 1.0, "expert_share": 0.3},
}
"""transformers 4 visits its experts one by one: three products and their indexing, some 10 us each."""
UNMEASURED_STORED = {"int8": {"matrix_microseconds": 120.0, "bytes_factor": 2.0, "compute_factor": 1.4}}
"""bitsandbytes' LLM.int8, which no row has: each product quantises its input, multiplies outliers apart and scales
back, some eight launches. Its authors' post (Hugging Face, August 2022): BLOOM-176B 15 to 23 % slower than in 16 bits,
models of a few billion parameters two to three times."""
KIN = {
    "generating: litgpt": "generating: transformers 4.4x",
    "generating: autoawq-gemv": "generating: vllm",
    "training: llm-foundry": "training: transformers",
    "training: torchtune": "training: transformers",
    "generating: transformers 4.3x": "generating: transformers 4.4x",
    "generating: transformers": "generating: transformers 4.4x",
    "generating: transformers 4.2x": "generating: transformers 4.3x",
    "generating: transformers, fused AWQ": "generating: transformers",
    "generating: vllm 0.4": "generating: vllm",
    "generating: sglang": "generating: vllm",
    "generating: autoawq": "generating: autoawq-gemv",
    "training: transformers fused": "training: transformers",
    "training: transformers fused-loss": "training: transformers fused",
    "training: scattermoe-ep": "training: scattermoe",
    "training: fsdp-qlora": "training: transformers",
    "training: torchtune-eager": "training: torchtune",
    "training: llm-foundry-fp8": "training: llm-foundry",
    "training: torchtitan": "training: llm-foundry",
    "training: torchtitan-async": "training: torchtitan",
    "training: torchtitan-fp8": "training: torchtitan",
    "training: torchtitan-fp8-async": "training: torchtitan-fp8",
    "training: torchtitan-rowwise": "training: torchtitan",
    "training: torchtitan-rowwise-async": "training: torchtitan-rowwise",
}
"""Whose constants an engine's are pulled to, in place of the defaults."""


def bounded(name: str, value: float) -> float:
    if name in ("compute_share", "matmul_share"):
        value = max(value, LEAST_COMPUTE_SHARE)
    if name == "cache_passes":
        return min(value, MOST_CACHE_PASSES)
    if name == "sharpness":
        return min(max(value, 1.0), 8.0)
    if name == "attention_share":
        value = max(value, LEAST_ATTENTION_SHARE)
    if name == "weight_share":
        value = min(value, MOST_WEIGHT_SHARE)
    if name.endswith("_share"):
        return min(value, LARGEST_SHARE)
    if name.endswith("_factor") and "." in name:
        return max(value, 0.25)
    return value


def default_of(kind: str, name: str) -> float:
    owner: Any = Stored() if "." in name else (Training() if kind == "training" else Generating())
    return float(getattr(owner, name.split(".")[-1]))


def start_of(kind: str, key: str, name: str, kin: Mapping[str, float]) -> float:
    plain = name.replace("-experts.", ".")
    given = STARTS.get((kind, key), {})
    return given.get(name) or kin.get(name) or kin.get(plain) or default_of(kind, name)


def generation_of(group: tuple[str, str]) -> tuple[int, str]:
    """Kin before those that learn from them."""
    name, depth = f"{group[0]}: {group[1]}", 0
    while name in KIN:
        name, depth = KIN[name], depth + 1
    return depth, f"{group[0]}: {group[1]}"
