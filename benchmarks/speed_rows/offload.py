"""Rows of generation with a model larger than the GPU: FlexGen's table."""

from __future__ import annotations

import re

from benchmarks.rows.conditions import NotCovered
from benchmarks.speed_rows.conditions import Asked, Given, dtype_of, gpu_of, links_of, shape_of, whole_number
from clusterlm.planning.case import Case
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Offload, Strategy

ENGINES = (
    (r"flexgen", "flexgen"),
    (r"zero-inference|deepspeed", "zero-inference"),
    (r"accelerate", "accelerate-offload"),
)


def read_offloaded(given: Given) -> Asked:
    text = given["engine"].lower()
    if "petals" in text:
        raise NotCovered("Petals: a swarm of other people's GPUs over a network that the row does not describe")
    engine = next((name for pattern, name in ENGINES if re.search(pattern, text)), None)
    if engine is None:
        raise NotCovered(f"offloading engine {given['engine'][:40]!r}")
    device = re.search(r"lowest offload device: (\w+)", given["note"])
    lowest = device.group(1).lower() if device else "cpu"
    offload: Offload = {"gpu": "none", "cpu": "cpu", "disk": "nvme"}.get(lowest, "cpu")  # type: ignore[assignment]
    gpu = gpu_of(given)
    workload = Workload(
        task="generate",
        dtype=dtype_of(given, gpu),
        batch=whole_number(given, "batch"),
        sequence_tokens=whole_number(given, "seq_len"),
        new_tokens=whole_number(given, "gen_len"),
        quantise="awq-int4" if "int4" in given["dtype"] else None,
        software=Software(engine=engine, version=(1,)),
    )
    count = whole_number(given, "n_gpus", 1)
    strategy = Strategy(gpus=count, gpus_per_node=count, pipeline_degree=count, offload=offload)
    return Asked(Case(shape_of(given), workload, strategy, gpu), links_of(gpu))


READERS = ((lambda given: given["task"] == "inference-offload", read_offloaded),)
