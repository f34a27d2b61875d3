"""Bytes over the network: the download, the start of a job, and what one GPU sends in one step, by strategy."""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.footprint import Item
from clusterlm.planning.stored import loaded_bytes, published_bytes
from clusterlm.planning.weights import element_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import SHARDS_PARAMETERS, Strategy

RING = "a ring sends (N - 1) / N of the buffer for a gather or a scatter, twice that for an all-reduce"
ZERO_PAPER = f"ZeRO (arXiv 1910.02054) section 7; {RING}"
MEGATRON = f"Megatron-LM (arXiv 1909.08053): one all-reduce after attention, one after the MLP; {RING}"


def network_items(
    shape: ModelShape, workload: Workload, strategy: Strategy, accumulation_steps: int
) -> tuple[Item, ...]:
    published, nodes = published_bytes(shape), strategy.nodes
    items = [
        Item("download, once", published, "the weights as published"),
        Item(
            "read from storage at each start", published * nodes, f"{published:,} B x {nodes} node" + "s" * (nodes > 1)
        ),
    ]
    if workload.trains and strategy.data_degree > 1:
        items += _data_parallel(shape, workload, strategy, accumulation_steps)
    if strategy.tensor_degree > 1:
        items.append(_tensor_parallel(shape, workload, strategy))
    if strategy.pipeline_degree > 1:
        items.append(_pipeline(shape, workload, strategy))
    return tuple(items)


def _data_parallel(shape: ModelShape, workload: Workload, strategy: Strategy, accumulation_steps: int) -> list[Item]:
    """Of one GPU in one optimizer step."""
    ranks, trained = strategy.data_degree, trained_parameters(shape, workload)
    share = f"{ranks - 1}/{ranks}"
    size = gradient_element_bytes(workload, strategy)
    gradients = round(trained * size)
    if strategy.sharding not in SHARDS_PARAMETERS:
        name = "all-reduce of gradients" if strategy.sharding == "ddp" else "reduce-scatter and all-gather"
        amount = round(2 * gradients * (ranks - 1) / ranks)
        formula = f"2 x {share} x {trained:,} trained x {size:g} B"
        return [Item(f"{name}, a step and GPU", amount, formula, ZERO_PAPER)]
    weights = gathered_bytes(shape, workload)
    times = 2 * accumulation_steps
    return [
        Item(
            "all-gather of weights, a step and GPU",
            round(times * weights * (ranks - 1) / ranks),
            f"2 (forward, backward) x {accumulation_steps} micro-batches x {share} x {weights:,} B",
            ZERO_PAPER,
        ),
        Item(
            "reduce-scatter of gradients, a step and GPU",
            round(accumulation_steps * gradients * (ranks - 1) / ranks),
            f"{accumulation_steps} micro-batches x {share} x {trained:,} trained x {size:g} B",
            ZERO_PAPER,
        ),
    ]


def gradient_element_bytes(workload: Workload, strategy: Strategy) -> float:
    """FSDP reduces in the type that its mixed precision names, which accelerate sets to the compute type."""
    if workload.method != "full":
        return 4.0 if strategy.sharding == "ddp" else element_bytes(workload.dtype)
    if workload.autocast and strategy.sharding == "ddp":
        return 4.0
    return element_bytes(workload.dtype)


def gathered_bytes(shape: ModelShape, workload: Workload) -> int:
    """All weights as they travel: in the compute type, or quantised."""
    if workload.method == "full":
        return round(shape.parameters * element_bytes(workload.dtype))
    return loaded_bytes(shape, workload)


def _tensor_parallel(shape: ModelShape, workload: Workload, strategy: Strategy) -> Item:
    """Of one GPU: in one forward pass of the prompt, or in one training micro-batch with its backward pass."""
    degree, size = strategy.tensor_degree, element_bytes(workload.dtype)
    passes = (2 + workload.checkpointing) if workload.trains else 1
    times = 2 * passes * len(shape.layers)
    amount = round(2 * (degree - 1) / degree * times * workload.tokens * shape.hidden_size * size)
    states = f"{workload.tokens:,} tokens x {shape.hidden_size:,} x {size:g} B"
    formula = f"2 x {degree - 1}/{degree} x {times} all-reduces x {states}"
    moment = "a micro-batch" if workload.trains else "a prompt batch"
    return Item(f"all-reduce of activations, {moment} and GPU", amount, formula, MEGATRON)


def _pipeline(shape: ModelShape, workload: Workload, strategy: Strategy) -> Item:
    size = element_bytes(workload.dtype)
    times = 2 if workload.trains else 1
    amount = round(times * workload.tokens * shape.hidden_size * size)
    formula = f"{times} x {workload.tokens:,} tokens x {shape.hidden_size:,} x {size:g} B"
    return Item("activations to the next stage, a batch", amount, formula, "one hidden state a token and boundary")
