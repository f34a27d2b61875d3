"""Memory of LitGPT's generate: weights with a head of their own, a cache for exactly the tokens asked for, prompt.

Source: lit-gpt of 2023-10 and litgpt 0.4.13, generate/base.py and model.py (build_kv_cache, Linear4bit).
"""

from __future__ import annotations

from clusterlm.model.shape import Attention, ModelShape
from clusterlm.planning.coefficients import LITGPT_DEQUANTISED_COPIES, at_version
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.generation import prefill_bytes_per_token
from clusterlm.planning.weights import Scheme, WeightSizes, element_bytes
from clusterlm.planning.workload import Workload


def litgpt_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, scheme: Scheme | None, workspace: int
) -> list[tuple[Phase, ...]]:
    """One GPU."""
    size = element_bytes(workload.dtype)
    table = shape.vocabulary_size * shape.hidden_size
    head = table * (scheme.per_weight if scheme else size)
    held = (
        Item("weights: layers", sum(weights.layers), "sum of all matrices of the layers"),
        Item("weights: embedding", weights.embedding + weights.other, "vocabulary x hidden"),
        Item("weights: head", round(head), "hidden x vocabulary, never tied and quantised like the layers"),
        Item("KV cache", _cache_bytes(shape, workload), "batch x layers x (prompt + new) x 2 x heads x head size x B"),
        Item("cuBLAS workspace", workspace, "one per handle"),
    )
    prompt = Item(
        "prompt", round(workload.tokens * prefill_bytes_per_token(shape, workload.dtype)), "tokens x widest moment"
    )
    logits = Item("logits of the prompt", round(workload.tokens * shape.vocabulary_size * size), "tokens x vocabulary")
    prefill = [*held, prompt, logits]
    if scheme is not None and scheme.per_weight < 1:
        copies = at_version(LITGPT_DEQUANTISED_COPIES, workload.software.version)
        largest = max(table, weights.largest_dequantised / size)
        prefill.append(
            Item("largest matrix, dequantised", round(copies * largest * size), f"{copies} x head or widest matrix")
        )
    return [(Phase("prefill", tuple(prefill)), Phase("last token", held))]


def _cache_bytes(shape: ModelShape, workload: Workload) -> int:
    """Keys and values are repeated for all heads before they are cached, but for a single query group."""
    tokens = workload.cache_tokens or workload.sequence_tokens + workload.new_tokens
    elements = 0
    for layer in shape.layers:
        if isinstance(layer.mixer, Attention):
            heads = 1 if layer.mixer.kv_heads == 1 else layer.mixer.heads
            elements += heads * (layer.mixer.head_size + layer.mixer.value_size)
    return round(workload.batch * tokens * elements * element_bytes(workload.dtype))
