"""Rows of torchtitan: pretraining under FSDP2, with tensor and context parallel."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.rows.conditions import NotCovered, Question, gpu_of, shape_of, whole_number
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

STORES_FEWER_BITS = ("NVFP4",)
LOSS_COMPILED_SINCE = (2, 7)


def is_torchtitan(asked: Mapping[str, str]) -> bool:
    return asked["software"].startswith("torchtitan")


def read_torchtitan(asked: Mapping[str, str]) -> Question:
    """Where checkpointing is unstated, the default of torchtitan's configurations: selective, by operator."""
    count = whole_number(asked, "n_gpus")
    for word in STORES_FEWER_BITS:
        if word in asked["dtype"]:
            raise NotCovered(f"activations kept in {word}")
    context, tensor = degree(asked, "CP"), degree(asked, "TP")
    if degree(asked, "PP") > 1:
        raise NotCovered("torchtitan's pipeline schedules")
    gpu = gpu_of(asked)
    workload = Workload(
        task="train",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len") // context,
        checkpointing=True,
        selective_checkpointing=not asked["grad_ckpt"].startswith("full"),
        autocast=True,
        optimizer="adamw-fused",
        chunked_loss="chunked cross entropy" in asked["notes"],
        software=Software(engine="torchtitan", torch=torch_of(asked), compiled="compile" in asked["dtype"]),
    )
    strategy = Strategy(
        gpus=count, gpus_per_node=min(count, 8), context_degree=context, tensor_degree=tensor, sharding="fsdp2"
    )
    return Question(shape_of(asked), workload, strategy, gpu)


def degree(asked: Mapping[str, str], word: str) -> int:
    found = re.search(rf"{word} ?(\d+)", asked["parallelism"])
    return int(found.group(1)) if found else 1


def torch_of(asked: Mapping[str, str]) -> tuple[int, ...]:
    """Where unstated: torch of 2024; but for GPUs that it did not know."""
    found = re.search(r"torch (\d+)\.(\d+)", asked["software"]) or re.search(r"torch (\d+)\.(\d+)", asked["notes"])
    if found:
        return int(found.group(1)), int(found.group(2))
    return LOSS_COMPILED_SINCE if "B200" in asked["gpu"] else (2, 6)


READERS = ((is_torchtitan, read_torchtitan),)
