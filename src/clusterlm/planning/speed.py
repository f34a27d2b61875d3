"""How long a case takes: one step, its parts, and how far such predictions usually are off."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.cluster import Gpu
from clusterlm.planning.case import Case
from clusterlm.planning.generation import cache_bytes_per_sequence
from clusterlm.planning.network import network_items
from clusterlm.planning.stored import loaded_bytes, published_bytes

USUAL_NODE_GB_PER_SECOND = 25.0
"""One 200 Gbit/s port."""
USUAL_STORAGE_GB_PER_SECOND = 2.0
"""One client of a parallel file system."""
START_SECONDS = 60.0
"""Python, torch and transformers from a shared file system, and the GPU's context."""
OVERHEAD_PER_LAYER_SECONDS = 600e-6
MEMORY_EFFICIENCY = 0.7
COMPUTE_EFFICIENCY = 0.45


@dataclass(frozen=True)
class Links:
    """What the GPUs of a plan are joined by, one direction, and what feeds them."""

    gpu_gb_per_second: float
    """One GPU to the others of its node."""
    node_gb_per_second: float
    """One node into the network."""
    storage_gb_per_second: float
    """One node's read of weight files."""


@dataclass(frozen=True)
class Pace:
    tokens_per_second: float
    """All GPUs together. Training: trained tokens; generation: new tokens, the prompts' time included; embedding: prompt
    tokens."""
    step_seconds: float
    """One optimizer step with its accumulation; one batch from prompt to last token; one forward pass."""
    parts: tuple[tuple[str, float], ...]
    """Named seconds of the step, which add up to it."""
    spread: float
    """80 % of such predictions lie within middle / spread .. middle x spread."""
    basis: str


def usual_links(gpu: Gpu) -> Links:
    """Where no cluster says."""
    return Links(gpu.gpu_link_gb_per_second, USUAL_NODE_GB_PER_SECOND, USUAL_STORAGE_GB_PER_SECOND)


def pace(case: Case, links: Links) -> Pace:
    workload, strategy = case.workload, case.strategy
    copies = strategy.data_degree
    if workload.task == "train":
        parts = _training(case, links)
        tokens = workload.tokens * copies * case.accumulation_steps
    elif workload.task == "embed":
        parts = _forward(case, workload.tokens)
        tokens = workload.tokens * copies
    else:
        parts = _generation(case)
        tokens = workload.batch * max(1, workload.new_tokens) * copies
    seconds = sum(parts.values())
    return Pace(tokens / seconds, seconds, tuple(parts.items()), 2.0, "data sheet; not fitted yet")


def load_seconds(case: Case, links: Links) -> float:
    published = published_bytes(case.shape)
    return (
        START_SECONDS
        + published / links.storage_gb_per_second / 1e9
        + loaded_bytes(case.shape, case.workload) / case.gpu.host_link_gb_per_second / 1e9
    )


def _peak(case: Case) -> float:
    tflops = case.gpu.float32_tflops if case.compute_dtype == "float32" else case.gpu.half_tflops
    return tflops * 1e12


def _forward(case: Case, tokens: int) -> dict[str, float]:
    flops = 2 * case.shape.active_parameters * tokens / case.strategy.tensor_degree
    return {
        "compute": flops / _peak(case) / COMPUTE_EFFICIENCY,
        "overhead": OVERHEAD_PER_LAYER_SECONDS * len(case.shape.layers),
    }


def _generation(case: Case) -> dict[str, float]:
    shape, workload, strategy = case.shape, case.workload, case.strategy
    middle = workload.sequence_tokens + workload.new_tokens // 2
    cache = workload.batch * cache_bytes_per_sequence(shape, middle, workload.dtype)
    read = (loaded_bytes(shape, workload) + cache) / strategy.tensor_degree
    bandwidth = case.gpu.memory_gb_per_second * 1e9 * MEMORY_EFFICIENCY
    step = _forward(case, workload.batch)
    parts = {name: seconds * workload.new_tokens for name, seconds in step.items()}
    parts["memory"] = workload.new_tokens * read / bandwidth
    parts["prefill"] = sum(_forward(case, workload.tokens).values())
    return parts


def _training(case: Case, links: Links) -> dict[str, float]:
    workload, strategy = case.workload, case.strategy
    passes = 3 + workload.checkpointing if workload.method == "full" else 2 + workload.checkpointing
    micro = _forward(case, workload.tokens)
    parts = {name: seconds * passes * case.accumulation_steps for name, seconds in micro.items()}
    sent = sum(
        item.bytes
        for item in network_items(case.shape, workload, strategy, case.accumulation_steps)
        if "GPU" in item.name
    )
    each = links.gpu_gb_per_second
    if strategy.nodes > 1:
        each = min(each, links.node_gb_per_second / strategy.gpus_per_node)
    parts["communication"] = sent / each / 1e9
    return parts
