"""Memory of vLLM: weights, the peak of its profile run, what is not torch's, CUDA graphs, and the pool that is left."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.cluster import Gpu
from clusterlm.model.shape import Attention, Layer, ModelShape
from clusterlm.planning.coefficients import (
    GIB,
    VLLM,
    VLLM_BLOCK_TOKENS,
    VLLM_FLOOR_BYTES,
    VLLM_GRAPHS_GIB,
    VLLM_HIDDEN_COPIES,
    VLLM_LIMITS,
    VLLM_MXFP4_PADDING,
    VLLM_NON_TORCH_PIPELINE_GIB,
    VLLM_PIPELINE_BYTES,
    VLLM_ROTARY_CONTEXTS,
    VLLM_VOCABULARY_PADDING,
    at_version,
)
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import Scheme, WeightSizes, element_bytes, linear_bytes, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

ACTIVATION_FORMULA = (
    "max(max_num_seqs x vocabulary x sampler + 1.18 x max_num_batched_tokens x hidden x 2, "
    "max_num_batched_tokens x (3 x intermediate / tensor degree + 4 x hidden) x B) + experts' workspace"
)


@dataclass(frozen=True)
class CachePool:
    """What vLLM gives to the key/value cache of one GPU, and how many tokens of text fit into it."""

    bytes: int
    tokens: int

    def sequences(self, tokens: int) -> int:
        """So many of `tokens` tokens each at once: a block of the cache belongs to one sequence."""
        return max(0, self.tokens // (-(-tokens // VLLM_BLOCK_TOKENS) * VLLM_BLOCK_TOKENS))


def cache_pool(
    shape: ModelShape, workload: Workload, scheme: Scheme | None, strategy: Strategy, gpu: Gpu, utilisation: float = 0.9
) -> CachePool:
    """utilisation x the physical card, less what the profile run measured on the fullest stage; may be negative."""
    weights = weight_sizes(shape, workload.dtype, scheme)
    stages = serving_phases(shape, workload, weights, scheme, strategy)
    allowed = round(utilisation * gpu.memory_bytes)
    pool = min(allowed - stage[0].bytes for stage in stages)
    blocks = int(pool / token_bytes(shape, workload, strategy)) // VLLM_BLOCK_TOKENS
    return CachePool(pool, blocks * VLLM_BLOCK_TOKENS)


def token_bytes(shape: ModelShape, workload: Workload, strategy: Strategy) -> float:
    """One token in the cache of one GPU: its stage's layers, its share of the KV heads, of which each GPU has one."""
    dtype = workload.kv_dtype or workload.dtype
    total = 0.0
    for layer in shape.layers:
        if isinstance(layer.mixer, Attention):
            elements = layer.mixer.latent_elements_per_token
            # A compressed vector belongs to all heads: every rank keeps it whole.
            ranks = 1 if layer.mixer.latent_size is not None else min(strategy.tensor_degree, layer.mixer.kv_heads)
            total += elements / ranks * element_bytes(dtype)
    return total / strategy.pipeline_degree


def default_limits(version: tuple[int, ...], gpu: Gpu, *, offline: bool, context_tokens: int | None) -> tuple[int, int]:
    """max_num_seqs and max_num_batched_tokens where neither is asked for."""
    law = at_version(VLLM_LIMITS, version)
    if law.tokens_at_least_context:
        context = context_tokens or 0
        tokens = law.chunk_tokens if context > law.chunked_beyond_context else max(2048, context)
        return law.small_card_sequences, tokens
    large = gpu.memory_bytes >= 70 * GIB and not gpu.key.startswith("a100")
    sequences = law.large_card_sequences if large else law.small_card_sequences
    return sequences, (16384 if offline else 8192) if large else (8192 if offline else 2048)


def serving_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, scheme: Scheme | None, strategy: Strategy
) -> list[tuple[Phase, ...]]:
    """One phase for each pipeline stage: vLLM measures its own peak once and gives the rest to the cache."""
    return [
        (Phase("profile run", tuple(_items(shape, workload, weights, scheme, strategy, stage))),)
        for stage in range(strategy.pipeline_degree)
    ]


def _items(
    shape: ModelShape,
    workload: Workload,
    weights: WeightSizes,
    scheme: Scheme | None,
    strategy: Strategy,
    stage: int,
) -> list[Item]:
    law = at_version(VLLM, workload.software.version)
    last = stage == strategy.pipeline_degree - 1
    held = stage_weight_bytes(shape, weights, strategy, stage) + _repeated_head_bytes(shape, workload, scheme, strategy)
    padding = _padding_bytes(shape, workload, scheme, strategy) if scheme else 0
    return [
        Item("weights", held, "matrices / tensor degree, layers / stages"),
        Item("padding of the experts", padding, "hidden to 256, intermediate / tensor degree to 64"),
        Item("rotary table", _rotary_bytes(shape, workload), "context x head size x B, once for all layers"),
        Item("peak activation", activation_bytes(shape, workload, strategy, last=last), ACTIVATION_FORMULA, law.source),
        Item("not torch's", non_torch_bytes(workload, strategy), "NCCL, custom all-reduce, kernels", law.source),
    ]


def stage_weight_bytes(shape: ModelShape, weights: WeightSizes, strategy: Strategy, stage: int) -> int:
    """Matrices are cut by the tensor degree; the embedding stands on the first stage and the head on the last."""
    stages = strategy.pipeline_degree
    total = sum(weights.layers) / stages
    if stage == 0:
        total += weights.embedding
    if stage == stages - 1:
        total += weights.head or (weights.embedding if stages > 1 else 0)
    return round((total + weights.other) / strategy.tensor_degree)


def _repeated_head_bytes(shape: ModelShape, workload: Workload, scheme: Scheme | None, strategy: Strategy) -> int:
    """With more ranks than KV heads each rank keeps one whole head, so k and v are held more than once."""
    size, degree = element_bytes(workload.dtype), strategy.tensor_degree
    total = 0.0
    for layer in shape.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention) and mixer.latent_size is None and mixer.kv_heads < degree:
            key_value = (one for one in layer.linears if one.name.split(".")[-1] in ("k_proj", "v_proj"))
            total += sum(linear_bytes(one, size, scheme) for one in key_value) * (1 / mixer.kv_heads - 1 / degree)
    return round(total / strategy.pipeline_degree)


def _padding_bytes(shape: ModelShape, workload: Workload, scheme: Scheme, strategy: Strategy) -> int:
    """MXFP4 experts are laid out in whole tiles of the kernel."""
    if not scheme.experts_only:
        return 0
    rows, columns = VLLM_MXFP4_PADDING
    total = 0.0
    for layer in shape.layers:
        width = layer.feed_forward.expert_size / strategy.tensor_degree
        if width:
            grown = _up_to(shape.hidden_size, rows) * _up_to(width, columns) / (shape.hidden_size * width)
            experts = sum(one.weights for one in layer.linears if one.copies > 1)
            total += experts * scheme.per_weight * (grown - 1)
    return round(total / strategy.tensor_degree / strategy.pipeline_degree)


def _up_to(value: float, multiple: int) -> int:
    return int(-(-value // multiple)) * multiple


def _rotary_bytes(shape: ModelShape, workload: Workload) -> int:
    if shape.context_tokens is None or shape.traits.get("position") != "rope":
        return 0
    sizes = {layer.mixer.head_size for layer in shape.layers if isinstance(layer.mixer, Attention)}
    positions = shape.context_tokens * VLLM_ROTARY_CONTEXTS.get(shape.architecture, 1)
    return round(sum(positions * size for size in sizes) * element_bytes(workload.dtype))


def activation_bytes(shape: ModelShape, workload: Workload, strategy: Strategy, *, last: bool = True) -> int:
    law = at_version(VLLM, workload.software.version)
    vocabulary = _up_to(shape.vocabulary_size, VLLM_VOCABULARY_PADDING)
    tokens, hidden = workload.max_batched_tokens, shape.hidden_size
    size = element_bytes(workload.dtype)
    # The law was read off runs in 16 bits, whose logits take 2 of the sampler's bytes.
    sampler = workload.max_sequences * vocabulary * (law.sampler_bytes - 2 + size)
    states = VLLM_HIDDEN_COPIES * tokens * hidden * size
    widths = [layer.feed_forward for layer in shape.layers]
    intermediate = max((one.intermediate_size for one in widths if not one.experts), default=0)
    forward = tokens * (3 * intermediate / strategy.tensor_degree + 4 * hidden) * size
    workspace, transient = _expert_bytes(shape, tokens, strategy.tensor_degree)
    if not last:
        return round(forward + transient + workspace + VLLM_PIPELINE_BYTES)
    return round(max(sampler + states + VLLM_FLOOR_BYTES, forward + transient) + workspace)


def _expert_bytes(shape: ModelShape, tokens: int, tensor_degree: int) -> tuple[float, float]:
    """Fused experts: gate and up of each chosen expert, then its product, for every token at once.

    A workspace that stays, but for MXFP4, whose kernels allocate theirs as they go.
    """
    largest = max(_expert_bytes_of(layer, shape, tokens, tensor_degree) for layer in shape.layers)
    as_they_go = shape.quantisation is not None and shape.quantisation.method == "mxfp4"
    return (0.0, largest) if as_they_go else (largest, 0.0)


def _expert_bytes_of(layer: Layer, shape: ModelShape, tokens: int, tensor_degree: int) -> float:
    mlp = layer.feed_forward
    width = mlp.expert_size / tensor_degree
    return tokens * mlp.active_experts * (max(2 * width, shape.hidden_size) + width) * 2 if mlp.experts else 0.0


def non_torch_bytes(workload: Workload, strategy: Strategy) -> int:
    law = at_version(VLLM, workload.software.version)
    if strategy.tensor_degree > 1:
        degree = max(known for known in law.non_torch_tensor_gib if known <= strategy.tensor_degree)
        return round(law.non_torch_tensor_gib[degree] * GIB)
    if strategy.pipeline_degree > 1:
        return round(VLLM_NON_TORCH_PIPELINE_GIB * GIB)
    return round(law.non_torch_gib * GIB)


def graphs(shape: ModelShape) -> Item:
    """Captured once all else is laid out; not in torch's own count."""
    constant, per_layer = VLLM_GRAPHS_GIB
    size = round((constant + per_layer * len(shape.layers)) * GIB)
    formula = f"({constant:g} + {per_layer:g} x {len(shape.layers)} layers) GiB"
    return Item("CUDA graphs", size, formula, "vLLM 0.19's logs, 51 piecewise and 51 full sizes")
