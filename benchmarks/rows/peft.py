"""Rows of PEFT's own comparison of methods (method_comparison/MetaMathQA), at the cap that they state for a sample.

Whatever the method, gradients walk through every frozen layer to its adapters, so what is kept is what LoRA on the same
modules keeps; a method's own working memory (weight deltas built whole, rotations) is not counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.rows.conditions import NotCovered, Question, gpu_of, shape_of, version_in, whole_number
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

Asked = Mapping[str, str]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Where a method has no module of its own (prompts, norms, tokens) the least that is learned of stands in."""

LARGEST_RANK = 64
"""Of the comparison's LoRA; larger numbers are other things that other methods call a rank."""


def is_peft_comparison(asked: Asked) -> bool:
    return asked["seq_len"].startswith("<=") and "peft" in asked["software"]


def read_peft_comparison(asked: Asked) -> Question:
    full = asked["task"] == "full"
    if not full and asked["task"] != "lora" and not asked["task"].startswith("peft:"):
        raise NotCovered(f"task {asked['task']!r}")
    if asked["task"] == "peft:OSF":
        raise NotCovered("OSF trains every weight, in another basis")
    cap = re.match(r"<=(\d+)", asked["seq_len"])
    rank = re.search(r"r=(\d+)", asked["lora"])
    workload = Workload(
        task="train",
        method="full" if full else "lora",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=int(cap.group(1)) if cap else 0,
        lora_rank=min(int(rank.group(1)), LARGEST_RANK) if rank else 8,
        lora_targets=tuple(re.findall(r"\w+_proj", asked["lora"])) or ATTENTION,
        software=Software(version=version_in(asked, "transformers") or (5,), torch=version_in(asked, "torch") or (2,)),
    )
    return Question(shape_of(asked), workload, Strategy(), gpu_of(asked))


READERS = ((is_peft_comparison, read_peft_comparison),)
