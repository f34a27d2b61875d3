"""Rows of generation: transformers, vLLM, SGLang, AutoAWQ, LitGPT, accelerate."""

from __future__ import annotations

import re

from benchmarks.rows.conditions import NotCovered
from benchmarks.rows.generation import LITGPT_NEW_TOKENS, LITGPT_PROMPT_TOKENS
from benchmarks.speed_rows.conditions import Asked, Given, dtype_of, gpu_of, links_of, quantised, shape_of, whole_number
from clusterlm.planning.case import Case
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

USUAL_NEW_TOKENS = 256
"""Where a row does not say how many: decoding speed hardly depends on it."""
SOFTWARE_OF_SOURCE = {
    ("qwen1.5", "transformers"): Software(version=(4, 37)),
    ("qwen2", "transformers"): Software(version=(4, 40)),
    ("qwen2", "vllm"): Software(engine="vllm", version=(0, 4)),
    ("qwen2.5", "transformers"): Software(version=(4, 45)),
    ("qwen2.5", "vllm"): Software(engine="vllm", version=(0, 6)),
    ("qwen3", "transformers"): Software(version=(4, 51)),
    ("glm4", "transformers"): Software(version=(4, 42)),
}
"""Versions of the documents that these tables stand in: each was made when its models came out."""
SERVES = r"lmdeploy|tensorrt|\btrt|\btgi\b|text-generation-inference|fastgen|\bmii\b|gpt-fast|\bmlc\b"
"""Engines with graphs of kernels and a paged cache, which no row has: as vLLM."""
ENGINES = (
    (r"vllm", Software(engine="vllm", version=(0, 6))),
    (r"sglang", Software(engine="sglang", version=(0, 4))),
    (r"autoawq.*gemv", Software(engine="autoawq-gemv", version=(0, 1))),
    (r"autoawq", Software(engine="autoawq", version=(0, 1))),
    (r"litgpt", Software(engine="litgpt", version=(0, 4))),
    (r"accelerate", Software(version=(4, 20))),
    (SERVES, Software(engine="vllm", version=(0, 6))),
    (r"exllama|llama\.cpp|ggml|gguf", Software(engine="autoawq-gemv", version=(0, 1))),
    (r"transformers|^hf\b|hugging", Software(version=(4, 45))),
)
CUTS_MATRICES = ("vllm", "sglang")


def read_generation(given: Given) -> Asked:
    gpu, shape, software = gpu_of(given), shape_of(given), software_of(given)
    count = whole_number(given, "n_gpus", 1)
    litgpt = software.engine == "litgpt"
    new_tokens = whole_number(given, "gen_len", LITGPT_NEW_TOKENS if litgpt else USUAL_NEW_TOKENS)
    stated = re.search(r"max_new_tokens(?: default)? (\d+)", given["note"])
    workload = Workload(
        task="generate",
        dtype=dtype_of(given, gpu),
        batch=whole_number(given, "batch", 1),
        sequence_tokens=whole_number(given, "seq_len", LITGPT_PROMPT_TOKENS),
        new_tokens=int(stated.group(1)) if stated and not given["gen_len"] else new_tokens,
        attention="flash" if "FA2" in given["note"] else "sdpa",
        quantise=quantised(given, shape),
        software=software,
    )
    tensor = count if software.engine in CUTS_MATRICES or "tensor-parallel" in given["note"] else 1
    strategy = Strategy(gpus=count, gpus_per_node=min(count, 8), tensor_degree=tensor, pipeline_degree=count // tensor)
    return Asked(Case(shape, workload, strategy, gpu), links_of(gpu), counted=counted_of(given, software))


def counted_of(given: Given, software: Software) -> str:
    if "(prompt+generated)" in given["note"]:
        return "all"
    return "decode" if "decode" in given["note"] or software.engine.startswith("autoawq") else "new"


def software_of(given: Given) -> Software:
    text = given["engine"].lower()
    stated = re.search(r"(\d+)\.(\d+)", given["engine"])
    for pattern, software in ENGINES:
        if re.search(pattern, text):
            if stated and software.engine in ("transformers", "vllm") and "accelerate" not in text:
                return Software(engine=software.engine, version=(int(stated.group(1)), int(stated.group(2))))
            source = given["source_key"].split("-")[0]
            return SOFTWARE_OF_SOURCE.get((source, software.engine), software)
    raise NotCovered(f"engine {given['engine'][:40] or 'not stated'!r}")


READERS = ((lambda given: given["task"] in ("inference", "generate", "generation"), read_generation),)
