"""Memory of vLLM: weights, the peak of its profile run, what is not torch's, CUDA graphs, and the pool that is left."""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.coefficients import (
    GIB,
    VLLM,
    VLLM_FLOOR_BYTES,
    VLLM_GRAPHS_GIB,
    VLLM_HIDDEN_COPIES,
    VLLM_NON_TORCH_PIPELINE_GIB,
    VLLM_NON_TORCH_TENSOR_GIB,
    VLLM_PIPELINE_BYTES,
    VLLM_VOCABULARY_PADDING,
    at_version,
)
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import WeightSizes, element_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy


def serving_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, strategy: Strategy
) -> list[tuple[Phase, ...]]:
    """One phase for each pipeline stage: vLLM measures its own peak once and gives the rest to the cache."""
    return [
        (Phase("profile run", tuple(_items(shape, workload, weights, strategy, stage))),)
        for stage in range(strategy.pipeline_degree)
    ]


def _items(shape: ModelShape, workload: Workload, weights: WeightSizes, strategy: Strategy, stage: int) -> list[Item]:
    law = at_version(VLLM, workload.software.version)
    last = stage == strategy.pipeline_degree - 1
    return [
        Item(
            "weights", stage_weight_bytes(shape, weights, strategy, stage), "matrices / tensor degree, layers / stages"
        ),
        Item("peak activation", activation_bytes(shape, workload, strategy, last=last), ACTIVATION_FORMULA, law.source),
        Item("not torch's", non_torch_bytes(workload, strategy), "NCCL, custom all-reduce, kernels", law.source),
    ]


ACTIVATION_FORMULA = (
    "max(max_num_seqs x vocabulary x sampler + 1.18 x max_num_batched_tokens x hidden x 2, "
    "max_num_batched_tokens x (3 x intermediate / tensor degree + 4 x hidden) x 2) + experts' workspace"
)


def stage_weight_bytes(shape: ModelShape, weights: WeightSizes, strategy: Strategy, stage: int) -> int:
    """Matrices are cut by the tensor degree; the embedding stands on the first stage and the head on the last."""
    stages = strategy.pipeline_degree
    total = sum(weights.layers) / stages
    if stage == 0:
        total += weights.embedding
    if stage == stages - 1:
        total += weights.head or (weights.embedding if stages > 1 else 0)
    return round((total + weights.other) / strategy.tensor_degree)


def activation_bytes(shape: ModelShape, workload: Workload, strategy: Strategy, *, last: bool = True) -> int:
    law = at_version(VLLM, workload.software.version)
    padding = VLLM_VOCABULARY_PADDING
    vocabulary = -(-shape.vocabulary_size // padding) * padding
    tokens, hidden = workload.max_batched_tokens, shape.hidden_size
    size = element_bytes(workload.dtype)
    sampler = workload.max_sequences * vocabulary * law.sampler_bytes + VLLM_HIDDEN_COPIES * tokens * hidden * 2
    widths = [layer.feed_forward for layer in shape.layers]
    intermediate = max((one.intermediate_size for one in widths if not one.experts), default=0)
    forward = tokens * (3 * intermediate / strategy.tensor_degree + 4 * hidden) * size
    experts = _expert_workspace(shape, tokens, strategy.tensor_degree)
    if not last:
        return round(forward + experts + VLLM_PIPELINE_BYTES)
    return round(max(sampler + VLLM_FLOOR_BYTES, forward) + experts)


def _expert_workspace(shape: ModelShape, tokens: int, tensor_degree: int) -> float:
    """Fused experts: each chosen expert's gate and up, then its product, for every token at once."""
    largest = 0.0
    for mlp in {layer.feed_forward for layer in shape.layers}:
        if mlp.experts:
            width = mlp.expert_size / tensor_degree
            largest = max(largest, tokens * mlp.active_experts * (max(2 * width, shape.hidden_size) + width) * 2)
    return largest


def non_torch_bytes(workload: Workload, strategy: Strategy) -> int:
    law = at_version(VLLM, workload.software.version)
    if strategy.tensor_degree > 1:
        degree = max(known for known in VLLM_NON_TORCH_TENSOR_GIB if known <= strategy.tensor_degree)
        return round(VLLM_NON_TORCH_TENSOR_GIB[degree] * GIB)
    if strategy.pipeline_degree > 1:
        return round(VLLM_NON_TORCH_PIPELINE_GIB * GIB)
    return round(law.non_torch_gib * GIB)


def graph_bytes(shape: ModelShape) -> int:
    constant, per_layer = VLLM_GRAPHS_GIB
    return round((constant + per_layer * len(shape.layers)) * GIB)
