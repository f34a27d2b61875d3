"""Memory of AutoAWQ with fused modules: load, fusing, the benchmark's warm-up, prompt, last token.

Source: AutoAWQ 0.1.6 and 0.2.0, awq/modules/fused/attn.py, awq/modules/fused/moe.py, awq/utils/fused_utils.py.
"""

from __future__ import annotations

from clusterlm.model.shape import Attention, Layer, ModelShape
from clusterlm.planning.coefficients import AUTOAWQ, AutoAwq, at_version
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.generation import (
    Slice,
    cache_bytes_per_sequence,
    rounding_bytes,
    slice_weight_items,
    slices,
)
from clusterlm.planning.weights import SCHEMES, WeightSizes, linear_bytes
from clusterlm.planning.workload import Workload

BYTES = 2
"""WQLinear computes in float16 only."""
QKV = ("q_proj", "k_proj", "v_proj")
GEMM_SPLITS = 8
"""gemm_forward_cuda and grouped_gemm_forward write one partial product for each of split_k_iters = 8."""
WARM_UP_BYTES = 2 * 4096 * 4096 * 4
"""examples/benchmark.py: a float32 matrix of 4096 x 4096 and its square."""


def autoawq_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, gpus: int, workspace: int
) -> list[tuple[Phase, ...]]:
    """The phases of each GPU, layers laid over them in order (device_map)."""
    return [
        _phases_of_slice(shape, workload, weights, part, gpus, workspace) for part in slices(len(shape.layers), gpus)
    ]


def _phases_of_slice(
    shape: ModelShape, workload: Workload, weights: WeightSizes, part: Slice, gpus: int, workspace: int
) -> tuple[Phase, ...]:
    law = at_version(AUTOAWQ, workload.software.version)
    rounding = round(rounding_bytes(shape, workload.dtype, SCHEMES["awq-int4"]) * part.share)
    held = [
        *slice_weight_items(weights, part, shape),
        Item("allocator's rounding", rounding, "blocks of 2 MiB split only above 1 MiB"),
        *_laid_out(shape, workload, law, part),
    ]
    copies = Item("second copy of q, k, v", round(_qkv_bytes(shape) * part.share), "fuse_qkv concatenates", law.source)
    running = [*held, Item("cuBLAS workspace", workspace, "one per handle")]
    if gpus > 1:
        # accelerate's hooks hold the modules in reference cycles, so the unfused q, k, v outlive the fusing.
        running.append(copies)
    tokens = workload.tokens
    logits = Item("logits of the whole prompt", tokens * shape.vocabulary_size * 6, "tokens x vocabulary x 6 B")
    fused_layer = Item("layer being fused", round(_largest_fused_layer(shape)), "q, k, v of a layer, its experts twice")
    return (
        Phase("load", (*held, Item("head before it is tied", _head_of_its_own(shape, weights), "vocabulary x hidden"))),
        Phase("fuse", (*held, copies, fused_layer)),
        Phase("warm-up", (*running, Item("4096 x 4096 product", WARM_UP_BYTES if part.first else 0, "2 x 4 B"))),
        Phase("prefill: attention", (*running, *_attention_items(shape, workload))),
        Phase("prefill: feed-forward", (*running, _feed_forward_item(shape, tokens))),
        Phase("prefill: logits", (*running, logits) if part.last else tuple(running)),
        Phase("last token", tuple(running)),
    )


def _head_of_its_own(shape: ModelShape, weights: WeightSizes) -> int:
    """Saved beside the embedding although tied to it; MPT's own code multiplies with the embedding and has no head."""
    return weights.embedding if shape.tied and shape.architecture != "mpt" else 0


def _laid_out(shape: ModelShape, workload: Workload, law: AutoAwq, part: Slice) -> list[Item]:
    """Caches of the fused layers, laid out for max_seq_len, and a table of complex64 rotations in each."""
    positions = workload.cache_tokens or workload.sequence_tokens + workload.new_tokens
    cache = workload.batch * cache_bytes_per_sequence(shape, positions, "float16")
    rotations = sum(
        law.rotary_positions * positions * layer.mixer.head_size // 2 * 8
        for layer in shape.layers
        if isinstance(layer.mixer, Attention)
    )
    return [
        Item("KV cache", round(cache * part.share), "batch x layers x max_seq_len x 2 x KV heads x head size x 2 B"),
        Item("rotary tables", round(rotations * part.share), "layers x positions x head size / 2 x 8 B", law.source),
    ]


def _qkv_bytes(shape: ModelShape) -> float:
    """Bytes of all separate q, k, v matrices; models that store one matrix (MPT, Falcon) have none to fuse."""
    return sum(_qkv_of_layer(layer) for layer in shape.layers)


def _qkv_of_layer(layer: Layer) -> float:
    named = (linear for linear in layer.linears if linear.name.split(".")[-1] in QKV)
    return sum(linear_bytes(linear, BYTES, SCHEMES["awq-int4"]) for linear in named)


def _largest_fused_layer(shape: ModelShape) -> float:
    """WQLinear lays out zeros that the concatenation replaces: q, k, v once more, experts' gate and up twice more."""
    largest = 0.0
    for layer in set(shape.layers):
        stacked = (
            linear_bytes(linear, BYTES, SCHEMES["awq-int4"])
            for linear in layer.linears
            if linear.copies > 1 and "down" not in linear.name
        )
        largest = max(largest, _qkv_of_layer(layer) + 2 * sum(stacked))
    return largest


def _attention_items(shape: ModelShape, workload: Workload) -> list[Item]:
    heads = max(layer.mixer.heads for layer in shape.layers if isinstance(layer.mixer, Attention))
    width = max(
        layer.mixer.kv_heads * layer.mixer.head_size for layer in shape.layers if isinstance(layer.mixer, Attention)
    )
    columns = workload.sequence_tokens
    states = 6 * shape.hidden_size + 3 * width
    return [
        Item(
            "attention scores",
            workload.tokens * columns * heads * 10,
            "tokens x prompt x heads x (2 B scores + 4 B float32 copy + 4 B softmax)",
        ),
        Item("attention mask", columns * columns * BYTES, "prompt x prompt x 2 B"),
        Item("hidden states around it", workload.tokens * states * BYTES, "tokens x (6 x hidden + 3 x KV width) x 2 B"),
    ]


def _feed_forward_item(shape: ModelShape, tokens: int) -> Item:
    """Partial products of the widest matrix (gate and up of all chosen experts at once), their sum, the activation."""
    widest = 0
    for layer in set(shape.layers):
        mlp = layer.feed_forward
        widest = max(widest, mlp.intermediate_size, 2 * mlp.active_experts * mlp.expert_size)
    elements = (GEMM_SPLITS + 2) * widest + 2 * shape.hidden_size
    return Item("feed-forward", tokens * elements * BYTES, "tokens x (8 + 2) x width x 2 B")
