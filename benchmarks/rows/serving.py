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
)
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy


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


READERS = ((lambda asked: asked["software"].startswith("vLLM"), read_vllm),)
