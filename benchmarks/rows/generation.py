"""Rows of generation with transformers, AutoAWQ and LitGPT."""

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

LITGPT_PROMPT_TOKENS = 9
"""generate/base.py: "What food do llamas eat?", with the token that begins a text."""
LITGPT_NEW_TOKENS = 50
"""generate/base.py: max_new_tokens."""


def read_generate(asked: Mapping[str, str]) -> Question:
    """transformers' generate(): the Qwen speed tables."""
    software = generation_software(asked)
    count = whole_number(asked, "n_gpus")
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked),
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        new_tokens=whole_number(asked, "gen_len", 0),
        attention="flash" if "flash" in asked["attn_impl"] else "sdpa",
        quantise=quantised(asked),
        software=software,
    )
    return Question(
        shape_of(asked),
        workload,
        laid_over(count),
        gpu_of(asked),
        summed=count > 1,
        only_phases=("last token",) if "decode-phase" in asked["notes"] else (),
    )


def generation_software(asked: Mapping[str, str]) -> Software:
    """An AWQ checkpoint of a row that names AutoAWQ ran in AutoAWQ's own model, with fused layers."""
    autoawq = version_in(asked, "AutoAWQ")
    if autoawq and asked["quantisation"].startswith("awq"):
        return Software(engine="autoawq", version=autoawq)
    version = version_in(asked, "transformers") or ((4, 37) if "pre-4.45" in asked["notes"] else None)
    if version is None:
        raise NotCovered("transformers version not stated")
    return Software(version=version)


def laid_over(count: int) -> Strategy:
    return Strategy(gpus=count, gpus_per_node=count, pipeline_degree=count)


def read_autoawq(asked: Mapping[str, str]) -> Question:
    """AutoAWQ's examples/benchmark.py: the cache is laid out for max_new_tokens, which is the decode length."""
    count = whole_number(asked, "n_gpus")
    new_tokens = whole_number(asked, "gen_len")
    workload = Workload(
        task="generate",
        dtype="float16",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        new_tokens=new_tokens,
        cache_tokens=new_tokens,
        attention="eager",
        quantise=quantised(asked),
        software=Software(engine="autoawq", version=version_in(asked, "AutoAWQ") or (0, 1)),
    )
    return Question(shape_of(asked), workload, laid_over(count), gpu_of(asked), summed=count > 1)


def read_litgpt(asked: Mapping[str, str]) -> Question:
    """LitGPT's generate/base.py with its default prompt."""
    if whole_number(asked, "n_gpus") > 1:
        raise NotCovered("LitGPT generating on several GPUs")
    workload = Workload(
        task="generate",
        dtype=dtype_of(asked),
        batch=whole_number(asked, "micro_batch", 1),
        sequence_tokens=whole_number(asked, "seq_len", LITGPT_PROMPT_TOKENS),
        new_tokens=whole_number(asked, "gen_len", LITGPT_NEW_TOKENS),
        quantise=quantised(asked),
        software=Software(engine="litgpt", version=version_in(asked, "LitGPT") or (0, 1)),
    )
    return Question(shape_of(asked), workload, Strategy(), gpu_of(asked))


def read_loaded(asked: Mapping[str, str]) -> Question:
    """A model right after it was built, before any text."""
    workload = Workload(task="generate", dtype=dtype_of(asked), quantise=quantised(asked), software=Software())
    return Question(shape_of(asked), workload, Strategy(), gpu_of(asked), only_phases=("load",))


READERS = (
    (lambda asked: asked["task"] == "load", read_loaded),
    (lambda asked: asked["task"] == "inference" and asked["software"].startswith("AutoAWQ"), read_autoawq),
    (lambda asked: asked["task"] == "inference" and "LitGPT" in asked["software"], read_litgpt),
    (lambda asked: asked["task"] == "inference" and "torch" in asked["software"], read_generate),
)
