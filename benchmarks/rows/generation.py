"""Rows of generation with transformers and its like."""

from __future__ import annotations

from collections.abc import Mapping

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
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy


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


READERS = ((lambda asked: asked["task"] == "inference" and "torch" in asked["software"], read_generate),)
