"""Rows of serving engines: what vLLM's profile run logs."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.rows.conditions import (
    NotCovered,
    Question,
    dtype_of,
    gpu_of,
    shape_of,
    version_in,
    whole_number,
)
from clusterlm.model.shape import ModelShape
from clusterlm.planning.serving import default_limits
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

FIRST_VERSION_OF_ENGINE_V1 = (0, 10)
"""Where a row says V1 and no version: the year 2025."""
STORED = {"fp8": "fp8", "awq": "awq-int4", "gptq-int4": "gptq-int4", "gptq-int8": "gptq-int8"}
"""Quantisation of a row whose model id is the plain one's; a quantised checkpoint's own config.json wins over it."""


def read_vllm(asked: Mapping[str, str]) -> Question:
    version = vllm_version(asked)
    if version is None:
        raise NotCovered("vLLM version not stated")
    shape, gpu = shape_of(asked), gpu_of(asked)
    degrees = dict(re.findall(r"(TP|PP|DP) (\d+)", asked["parallelism"]))
    tensor, stages = int(degrees.get("TP", 1)), int(degrees.get("PP", 1))
    context = whole_number(asked, "seq_len", shape.context_tokens)
    sequences, tokens = default_limits(version, gpu, offline=False, context_tokens=context)
    limits = dict(re.findall(r"(max_num_\w+)=(\d+)", asked["micro_batch"]))
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked) if "float" in asked["dtype"] else "bfloat16",
        quantise=stored_scheme(asked, shape),
        kv_dtype="float8_e4m3fn" if "kv_cache_dtype fp8" in asked["notes"] else None,
        max_sequences=int(limits.get("max_num_seqs", sequences)),
        max_batched_tokens=int(limits.get("max_num_batched_tokens", tokens)),
        software=Software(engine="vllm", version=version),
    )
    count = tensor * stages
    strategy = Strategy(gpus=count, gpus_per_node=count, tensor_degree=tensor, pipeline_degree=stages)
    return Question(shape, workload, strategy, gpu, lightest_gpu=stages > 1)


def stored_scheme(asked: Mapping[str, str], shape: ModelShape) -> str | None:
    text = asked["quantisation"]
    if shape.quantisation or text in ("", "none"):
        return None
    if text not in STORED:
        raise NotCovered(f"{text} checkpoint of {shape.name}, whose config.json does not say how it is stored")
    return STORED[text]


def vllm_version(asked: Mapping[str, str]) -> tuple[int, ...] | None:
    """A release named without its last number is taken as the last of its series."""
    version = version_in(asked, "vLLM")
    if version is None:
        return FIRST_VERSION_OF_ENGINE_V1 if "V1" in asked["software"] else None
    return version if len(version) > 2 else (*version, 99)


READERS = ((lambda asked: asked["software"].startswith("vLLM"), read_vllm),)
