"""Memory of text generation with transformers: load, prefill, first token, last token."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.shape import Attention, ModelShape, Recurrent
from clusterlm.planning.coefficients import GPTQ_SCRATCH, MIB, Generation, at_version
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import Scheme, WeightSizes, element_bytes, scheme_of
from clusterlm.planning.workload import Workload

LARGE_ALLOCATION = 10 * MIB
ROUND_LARGE = 2 * MIB
SMALL_REMAINDER = MIB


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
    for layer, count in shape.counted_layers:
        if isinstance(layer.mixer, Recurrent):
            total += count * layer.mixer.state_elements * size
            continue
        elements = layer.mixer.latent_elements_per_token if latent else layer.mixer.cache_elements_per_token
        kept = tokens if layer.mixer.window is None else min(tokens, layer.mixer.window)
        total += count * kept * elements * size
    return round(total)


def rotary_table_bytes(shape: ModelShape, dtype: str) -> int:
    """Cosines and sines over the whole context, in each layer: 2 x context x head size."""
    if shape.context_tokens is None or shape.traits.get("position") != "rope":
        return 0
    heads = sum(
        count * layer.mixer.head_size for layer, count in shape.counted_layers if isinstance(layer.mixer, Attention)
    )
    return round(2 * shape.context_tokens * heads * element_bytes(dtype))


def prefill_bytes_per_token(shape: ModelShape, dtype: str) -> float:
    """Widest moment inside one layer: gate, up and their product, and four hidden states around them."""
    size = element_bytes(dtype)
    widest = 0.0
    for layer, _ in shape.counted_layers:
        mlp = layer.feed_forward
        width = max(mlp.intermediate_size, mlp.active_experts * mlp.expert_size + mlp.shared_size)
        copies = 3 if mlp.gated else 2
        widest = max(widest, copies * width + 4 * shape.hidden_size)
    return widest * size


def score_bytes_per_token(shape: ModelShape, workload: Workload) -> float:
    """Eager attention writes scores in the model's type and their softmax in float32: 6 bytes a head and column."""
    if workload.attention != "eager":
        return 0.0
    heads = max(
        (layer.mixer.heads for layer, _ in shape.counted_layers if isinstance(layer.mixer, Attention)), default=0
    )
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
    resting = _resting_items(shape, workload, weights, law, part)
    held = (*resting, Item("cuBLAS workspace", workspace, "one per handle"))
    tied_later = weights.embedding if shape.tied and stored_by_autoawq(shape, workload) else 0
    prompt, last = workload.sequence_tokens, workload.sequence_tokens + workload.new_tokens
    working = _logits_of_prompt(shape, workload, law, part) if law.logit_bytes else _prefill_memory(shape, workload)
    return (
        Phase("load", (*resting, Item("head before it is tied", tied_later, "vocabulary x hidden, AutoAWQ's loader"))),
        Phase("prefill", (*held, _cache(shape, workload, prompt, part, 1), working)),
        Phase(
            "first token",
            (
                *held,
                _cache(shape, workload, prompt + 1, part, law.cache_copies),
                _logits_still_held(shape, workload, law, part),
            ),
        ),
        Phase("last token", (*held, _cache(shape, workload, last, part, law.cache_copies))),
    )


def _resting_items(
    shape: ModelShape, workload: Workload, weights: WeightSizes, law: Generation, part: Slice
) -> list[Item]:
    """What stays from load to end: weights, how the allocator rounds them, tables, kernels' scratch."""
    scheme = scheme_of(shape, workload.quantise)
    rounding = 0 if law.weights_in_one_block else rounding_bytes(shape, workload.dtype, scheme)
    items = slice_weight_items(weights, part, shape)
    items.append(Item("allocator's rounding", round(rounding * part.share), "blocks of 2 MiB split only above 1 MiB"))
    if law.rotary_tables_per_layer:
        tables = round(rotary_table_bytes(shape, workload.dtype) * part.share)
        items.append(Item("rotary tables", tables, "layers x 2 x context x head size", law.source))
    in_four_bits = shape.quantisation and shape.quantisation.method == "gptq" and shape.quantisation.bits == 4
    if in_four_bits and at_version(GPTQ_SCRATCH, workload.software.version):
        items.append(Item("GPTQ kernel's scratch", weights.largest_dequantised, "largest matrix in 16 bits"))
    return items


def rounding_bytes(shape: ModelShape, dtype: str, scheme: Scheme | None) -> int:
    """Torch's caching allocator cuts matrices of 10 MiB and more from blocks of whole 2 MiB, and gives what is left
    over of 1 MiB and less with them (CUDACachingAllocator.cpp, kSmallSize, kMinLargeAlloc, kRoundLarge)."""
    total = 0
    for layer, count in shape.counted_layers:
        for linear in layer.linears:
            # Scales and zeros are tensors of their own: the matrix has a whole number of half bytes for each weight.
            each = int(scheme.per_weight * 2) / 2 if scheme else element_bytes(dtype)
            bytes_of_one = round(linear.inputs * linear.outputs * each)
            spare = -bytes_of_one % ROUND_LARGE
            if bytes_of_one >= LARGE_ALLOCATION and spare <= SMALL_REMAINDER:
                total += count * spare * linear.copies
    return total


def _prefill_memory(shape: ModelShape, workload: Workload) -> Item:
    each = prefill_bytes_per_token(shape, workload.dtype) + score_bytes_per_token(shape, workload)
    return Item(
        "prefill working memory", round(workload.tokens * each), "tokens x (3 x intermediate + 4 x hidden) x bytes"
    )


def _logits_of_prompt(shape: ModelShape, workload: Workload, law: Generation, part: Slice) -> Item:
    """Computed on the last GPU; their float32 copy is sent to the first, where the prompt came from."""
    each = law.logit_bytes if part.last else law.held_logit_bytes if part.first else 0.0
    size = round(workload.tokens * shape.vocabulary_size * each)
    return Item("logits of the whole prompt", size, f"tokens x vocabulary x {each:g} B", law.source)


def _logits_still_held(shape: ModelShape, workload: Workload, law: Generation, part: Slice) -> Item:
    each = law.held_logit_bytes if part.first or part.last else 0.0
    size = round(workload.tokens * shape.vocabulary_size * each)
    return Item("prompt's logits, still held", size, f"tokens x vocabulary x {each:g} B", law.source)


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
