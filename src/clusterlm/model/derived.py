"""Ids that the catalogue has no entry for, but that are another spelling, copy or quantisation of one that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clusterlm.errors import ModelError

Quantised = dict[str, Any] | None

NOT_IN_TRANSFORMERS = re.compile(r"[-_.](gguf|ggml|exl2|exl3|mlx|onnx|openvino|hqq|aqlm|[2-8]bit-mlx)\b")


def gptq(bits: int) -> Quantised:
    return {"quant_method": "gptq", "bits": bits, "group_size": 128}


def compressed(bits: int, kind: str, group_size: int | None = None) -> Quantised:
    weights = {
        "num_bits": bits,
        "type": kind,
        "strategy": "group" if group_size else "channel",
        "group_size": group_size,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


FP8_IN_BLOCKS: Quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ: Quantised = {"quant_method": "awq", "bits": 4, "group_size": 128}
NF4: Quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}
INT8: Quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
NVFP4: Quantised = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}

# Each ending with what its usual makers (Qwen, RedHatAI, TheBloke, hugging-quants, unsloth, nvidia) mean by it.
ENDINGS: tuple[tuple[str, Quantised], ...] = (
    (r"-gptq-int8|-gptq-8bit|-int8-gptq", gptq(8)),
    (r"-gptq-int4|-gptq-4bit|-int4-gptq|-gptq", gptq(4)),
    (r"-awq-int4|-int4-awq|-awq-4bit|-awq", AWQ),
    (r"-quantized\.w8a8|-w8a8", compressed(8, "int")),
    (r"-quantized\.w8a16|-w8a16", compressed(8, "int")),
    (r"-quantized\.w4a16|-w4a16(?:-g128)?", compressed(4, "int", 128)),
    (r"-fp8-dynamic|-fp8-kv|-fp8", compressed(8, "float")),
    (r"-nvfp4|-fp4", NVFP4),
    (r"-unsloth-bnb-4bit|-bnb-4bit|-4bit-bnb", NF4),
    (r"-bnb-8bit", INT8),
    (r"-bf16|-fp16|-hf", None),
)
TUNED = re.compile(r"-(instruct|chat|it|base|pt)(?=-|$)")


@dataclass(frozen=True)
class Derived:
    """The id in the catalogue whose sizes these are, and how the name says that they are stored."""

    original: str
    quantised: Quantised
    how: str


def derived_from(name: str, find: Callable[[str], str | None]) -> Derived | None:
    """None unless all but a known ending is the name of a known model: another size is never taken for it."""
    lowered = name.lower()
    if NOT_IN_TRANSFORMERS.search(lowered):
        raise ModelError(
            "holds weights in a format that neither transformers nor vLLM plans with here",
            where=name,
            hint="plan for the model that it was made from",
        )
    stem, quantised, ending = _without_ending(lowered)
    for candidate, how in _spellings(stem):
        original = find(candidate)
        if original is not None:
            said = f", quantised as {ending.strip('-')} usually means" if quantised else ""
            return Derived(original, quantised, f"{how} {original}{said}")
    return None


def _without_ending(name: str) -> tuple[str, Quantised, str]:
    for pattern, quantised in ENDINGS:
        met = re.search(rf"(?:{pattern})$", name)
        if met:
            in_blocks = met[0] == "-fp8" and name.startswith(("qwen/", "deepseek-ai/"))
            return name[: met.start()], FP8_IN_BLOCKS if in_blocks else quantised, met[0]
    return name, None, ""


def _spellings(stem: str) -> Iterator[tuple[str, str]]:
    """The nearest first: the id itself, a copy by another owner, then the same model tuned otherwise."""
    yield stem, "taken from"
    short = stem.rsplit("/", 1)[-1]
    for spelling in _short_spellings(short):
        yield spelling, "taken to be a copy of"
    untuned = TUNED.sub("", short)
    for tuned in (untuned, f"{untuned}-instruct", f"{untuned}-chat", f"{untuned}-it", f"{untuned}-base"):
        for spelling in _short_spellings(tuned):
            yield spelling, "taken to have the sizes of"


def _short_spellings(short: str) -> Iterator[str]:
    yield from (short, f"{short}-hf", short.removeprefix("meta-"), f"meta-{short}")
