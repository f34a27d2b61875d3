"""A row of published speeds as the case it measured: its conditions become a Case, never its value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from benchmarks.rows.conditions import NotCovered
from clusterlm.cluster import Gpu, gpus
from clusterlm.errors import ClusterlmError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config, id_of_short_name
from clusterlm.model.shape import ModelShape
from clusterlm.planning.case import Case
from clusterlm.planning.links import Links, usual_links
from clusterlm.planning.weights import SCHEMES

Given = Mapping[str, str]
CONDITIONS = (
    "source_key", "model", "hf_id", "params", "task", "engine", "dtype", "seq_len", "gen_len", "batch", "n_gpus", "gpu",
)  # fmt: skip
"""Columns that a prediction may read; of `note`, which also holds measured values, only the words of NOTE_WORDS."""
NOTE_WORDS = (
    r"GC on|GC off|FSDP\d?|TP \d+|PP \d+|CP \d+|DDP|AC(?: |=)(?:yes\+offload|yes|no|True|False)|full AC|per-op SAC"
    r"|FULL_SHARD|SHARD_GRAD_OP|NO_SHARD|grad accum \d+|MP mode \w+|\bdecode\b|\(prompt\+generated\)/time|with FA2"
    r"|layer-sequential|tensor-parallel|max_new_tokens(?: default)? \d+|unpacked|packed|compile|chunked CE|async TP"
    r"|AsyncTP|optimizer_in_bwd|8-bit AdamW|PagedAdamW8bit|QLoRA|LoRA|CPU offload|lowest offload device: \w+|single"
    r"|without activation checkpointing|activation checkpointing|activation ckpt|activation offload"
)


@dataclass(frozen=True)
class Asked:
    case: Case
    links: Links
    counted: str = "new"
    """What the row's tokens are: `new` ones over the whole time, `all` with the prompts' over the same, `decode`: new
    ones over the time after the prefill, `trained`."""
    factor: float = 1.0
    """Time of what the row's method does beside the case's, as a multiple."""


def conditions(row: Mapping[str, str]) -> dict[str, str]:
    known = {name: (row.get(name) or "").strip() for name in CONDITIONS}
    words = re.findall(NOTE_WORDS, row.get("note") or "")
    return known | {"note": "; ".join(words)}


def whole_number(given: Given, column: str, default: int | None = None) -> int:
    found = re.match(r"\d+", given[column].replace(",", ""))
    if found and int(found.group()) > 0:
        return int(found.group())
    if default is not None:
        return default
    raise NotCovered(f"{column} is {given[column][:30] or 'not stated'!r}")


GPU_WORDS = (
    (r"gh200", "gh200-96"), (r"h200", "h200"), (r"h20\b|h20[-_ ]", "h20-96"), (r"b200", "b200"),
    (r"h100.*(94|96) ?gb|h100[-_ ](94|96)", "h100-94"), (r"h100.*64 ?gb", "h100-64"), (r"h100", "h100-80"),
    (r"a100.*40 ?gb|a100[-_ ]40", "a100-40"), (r"a100.*64 ?gb", "a100-64"), (r"a100", "a100-80"),
    (r"mi300", "mi300x"), (r"mi250", "mi250x"), (r"v100.*32", "v100-32"), (r"v100", "v100-16"),
    (r"4060", "rtx4060-laptop"), (r"4090", "rtx4090"), (r"3090", "rtx3090"), (r"titan", "titan-rtx"),
    (r"a6000", "a6000"), (r"rtx ?6000(?! ?ada)", "rtx6000"), (r"6000 ?ada", "l40"), (r"a10g?\b", "a10g"),
    (r"a40\b", "a40"), (r"l40s", "l40s"), (r"l40\b", "l40"), (r"l4\b", "l4"), (r"\bt4", "t4"),
)  # fmt: skip


def gpu_of(given: Given) -> Gpu:
    text = given["gpu"].lower()
    for pattern, key in GPU_WORDS:
        if re.search(pattern, text):
            return gpus()[key]
    raise NotCovered(f"GPU {given['gpu'][:30] or 'not stated'!r}")


STAND_INS = {"moe-7b-1b-active-shared-experts": "ibm-granite/granite-4.0-tiny-preview"}
"""Published nowhere that the catalogue could read; the same maker's model of the same count of parameters, total and
active, with shared experts."""
OF_LIKE_SIZE = (
    "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2.5-32B", "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-405B",
)  # fmt: skip
"""Dense models that stand in where a row's model is in no catalogue and its name says a size."""
ENDINGS = r"[-_](GPTQ|AWQ|Int4|Int8|FP8|4bit|8bit|INT4|INT8|gptq|awq)\b.*$"


@cache
def shape_named(name: str) -> ModelShape | None:
    for candidate in (name, STAND_INS.get(name.split("/")[-1], ""), re.sub(ENDINGS, "", name)):
        known = candidate and (_config(candidate) or _config(id_of_short_name(candidate.split("/")[-1]) or ""))
        if known:
            return shape_from_config(known, candidate)
    return None


def _config(name: str) -> dict[str, object] | None:
    try:
        return catalogue_config(name) if name else None
    except ClusterlmError:
        return None


@cache
def shape_of_like_size(billions: float) -> ModelShape:
    shapes = [shape for name in OF_LIKE_SIZE if (shape := shape_named(name))]
    return min(shapes, key=lambda shape: abs(shape.parameters / 1e9 / billions - billions * 1e9 / shape.parameters))


def shape_of(given: Given) -> ModelShape:
    for name in (given["hf_id"], given["model"]):
        try:
            found = shape_named(name) if name else None
        except ClusterlmError as problem:
            raise NotCovered(problem.problem) from None
        if found:
            return found
    words = f"{given['hf_id']} {given['model']}"
    size = re.search(r"(?<![\dA-Za-z.])(\d+(?:\.\d+)?) ?[bB]\b(?!-A\d)", words)
    if size and not re.search(r"moe|\d+x\d+b|-a\d+(\.\d+)?b", words, re.IGNORECASE):
        return shape_of_like_size(float(size.group(1)))
    raise NotCovered(f"model {(given['hf_id'] or given['model'])[:50]!r} not in the catalogue")


def dtype_of(given: Given, gpu: Gpu) -> str:
    text = given["dtype"].lower()
    if re.search(r"fp32|float32|tf32", text) and not re.search(r"bf16|fp16|autocast", text):
        return "float32"
    if re.search(r"\bfp16|float16", text) and "bfloat16" not in text:
        return "float16"
    return "bfloat16" if gpu.bfloat16 else "float16"


QUANTISED = (
    (r"gptq.*8", "gptq-int8"), (r"gptq", "gptq-int4"), (r"awq", "awq-int4"), (r"w8a8", "w8a8"), (r"w4a16", "w4a16"),
    (r"nf4-dq", "nf4-dq"), (r"nf4|bnb.?(int)?4|4bit", "nf4"), (r"mxfp4", "mxfp4"), (r"nvfp4", "nvfp4"),
    (r"int8|8bit|llm\.int8", "int8"), (r"\bint4\b.*g128|\bint4\b", "awq-int4"),
)  # fmt: skip


def quantised(given: Given, shape: ModelShape) -> str | None:
    """While loading, or by the row's words: a checkpoint's own wins."""
    text = given["dtype"].lower()
    if shape.quantisation:
        return None
    for pattern, scheme in QUANTISED:
        if re.search(pattern, text):
            return scheme
    if re.search(r"^fp8|^float8$", text):
        return "fp8-block"
    assert all(scheme in SCHEMES for _, scheme in QUANTISED)
    return None


def links_of(gpu: Gpu) -> Links:
    """Published training clusters have a network port for each GPU: 200 Gbit/s with A100, 400 with H100."""
    usual = usual_links(gpu)
    port = 25.0 if gpu.compute_capability < (9, 0) else 50.0
    return Links(usual.gpu_gb_per_second, 8 * port, usual.storage_gb_per_second)
