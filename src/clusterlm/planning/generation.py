"""Memory of text generation with transformers: load, prefill, first token, last token."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.shape import Attention, ModelShape, Recurrent
from clusterlm.planning.coefficients import Generation
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import WeightSizes, element_bytes
from clusterlm.planning.workload import Workload


@dataclass(frozen=True)
class Slice:
    """What one GPU holds of a model whose layers are laid over several: its layers, and the ends if they are its."""

    first: bool
    last: bool
    share: float
    """Of all layers."""
    layers: float


def slices(layers: int, gpus: int) -> list[Slice]:
    return [Slice(first=i == 0, last=i == gpus - 1, share=1 / gpus, layers=layers / gpus) for i in range(gpus)]


def cache_bytes_per_sequence(shape: ModelShape, tokens: int, dtype: str, *, latent: bool = False) -> int:
    """Keys and values of `tokens` tokens in all layers: sliding layers keep their window, recurrent ones a state."""
    size = element_bytes(dtype)
    total = 0.0
    for layer in shape.layers:
        if isinstance(layer.mixer, Recurrent):
            total += layer.mixer.state_elements * size
            continue
        elements = layer.mixer.latent_elements_per_token if latent else layer.mixer.cache_elements_per_token
        kept = tokens if layer.mixer.window is None else min(tokens, layer.mixer.window)
        total += kept * elements * size
    return round(total)


def rotary_table_bytes(shape: ModelShape, dtype: str) -> int:
    """Cosines and sines over the whole context, in each layer: 2 x context x head size."""
    if shape.context_tokens is None or shape.traits.get("position") != "rope":
        return 0
    heads = (layer.mixer.head_size for layer in shape.layers if isinstance(layer.mixer, Attention))
    return round(sum(2 * shape.context_tokens * head * element_bytes(dtype) for head in heads))


def prefill_bytes_per_token(shape: ModelShape, dtype: str) -> float:
    """Widest moment inside one layer: gate, up and their product, and four hidden states around them."""
    size = element_bytes(dtype)
    widest = 0.0
    for layer in set(shape.layers):
        mlp = layer.feed_forward
        width = max(mlp.intermediate_size, mlp.active_experts * mlp.expert_size + mlp.shared_size)
        copies = 3 if mlp.gated else 2
        widest = max(widest, copies * width + 4 * shape.hidden_size)
    return widest * size


def score_bytes_per_token(shape: ModelShape, workload: Workload) -> float:
    """Eager attention writes scores in the model's type and their softmax in float32: 6 bytes a head and column."""
    if workload.attention != "eager":
        return 0.0
    heads = max((layer.mixer.heads for layer in shape.layers if isinstance(layer.mixer, Attention)), default=0)
    return heads * workload.sequence_tokens * (element_bytes(workload.dtype) + 4)


def generation_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, law: Generation, gpus: int, workspace: int
) -> list[tuple[Phase, ...]]:
    """The phases of each GPU, layers laid over them in order (device_map)."""
    return [
        _phases_of_slice(shape, workload, weights, law, part, workspace) for part in slices(len(shape.layers), gpus)
    ]


def slice_weight_items(weights: WeightSizes, part: Slice, shape: ModelShape) -> list[Item]:
    blocks = Item("weights: layers", round(sum(weights.layers) * part.share), "sum of all matrices of the layers")
    ends = []
    if part.first:
        ends.append(Item("weights: embedding", weights.embedding + weights.other, "vocabulary x hidden"))
    if part.last and weights.head:
        ends.append(Item("weights: head", weights.head, "hidden x vocabulary, not tied"))
    if part.last and not part.first and shape.tied:
        ends.append(Item("weights: head", weights.embedding, "tied, but on another GPU than the embedding"))
    return [blocks, *ends]


def _phases_of_slice(
    shape: ModelShape, workload: Workload, weights: WeightSizes, law: Generation, part: Slice, workspace: int
) -> tuple[Phase, ...]:
    held = slice_weight_items(weights, part, shape)
    if law.rotary_tables_per_layer:
        tables = round(rotary_table_bytes(shape, workload.dtype) * part.share)
        held.append(Item("rotary tables", tables, "layers x 2 x context x head size", law.source))
    held.append(Item("cuBLAS workspace", workspace, "one per handle"))
    prompt, last = workload.sequence_tokens, workload.sequence_tokens + workload.new_tokens
    tokens = workload.batch * prompt
    ends = part.first or part.last
    logits = law.logit_bytes if part.last else law.held_logit_bytes if part.first else 0.0
    load = [*held[:-1]]
    if shape.tied and stored_by_autoawq(shape, workload):
        load.append(Item("head before it is tied", weights.embedding, "vocabulary x hidden, made by AutoAWQ's loader"))
    return (
        Phase("load", tuple(load)),
        Phase(
            "prefill",
            (
                *held,
                _cache(shape, workload, prompt, part, 1),
                Item(
                    "prefill working memory",
                    round(
                        tokens
                        * (prefill_bytes_per_token(shape, workload.dtype) + score_bytes_per_token(shape, workload))
                    ),
                    "tokens x (3 x intermediate + 4 x hidden) x bytes",
                )
                if not law.logit_bytes
                else Item(
                    "logits of the whole prompt",
                    round(tokens * shape.vocabulary_size * logits),
                    f"tokens x vocabulary x {logits:g} B",
                    law.source,
                ),
            ),
        ),
        Phase(
            "first token",
            (
                *held,
                _cache(shape, workload, prompt + 1, part, law.cache_copies),
                Item(
                    "prompt's logits, still held",
                    round(tokens * shape.vocabulary_size * law.held_logit_bytes * ends),
                    f"tokens x vocabulary x {law.held_logit_bytes:g} B",
                    law.source,
                ),
            ),
        ),
        Phase("last token", (*held, _cache(shape, workload, last, part, law.cache_copies))),
    )


def stored_by_autoawq(shape: ModelShape, workload: Workload) -> bool:
    if shape.quantisation:
        return shape.quantisation.method == "awq"
    return (workload.quantise or "").startswith("awq")


def _cache(shape: ModelShape, workload: Workload, tokens: int, part: Slice, copies: int) -> Item:
    one = workload.batch * cache_bytes_per_sequence(shape, tokens, workload.kv_dtype or workload.dtype)
    times = f"{copies} x " if copies > 1 else ""
    return Item(
        "KV cache",
        round(one * part.share * copies),
        f"{times}batch x layers x tokens x 2 x KV heads x head size x bytes",
    )
