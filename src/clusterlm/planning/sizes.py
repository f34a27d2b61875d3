"""The sizes that memory is linear in: of one layer, and of what stands around the layers, for one model and one step.

Both sides use these names: worker/trace/learn.py, which reads the laws off traced steps of small models, and
planning/laws.py, which evaluates them for a model of any size. A name is a product of its words: `tokens hidden`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from clusterlm.model.shape import Attention, Layer, Linear, ModelShape
from clusterlm.planning.adapters import counted_adapted_linears
from clusterlm.planning.workload import Workload

Sizes = dict[str, float]


@dataclass(frozen=True)
class Step:
    """What the sizes need to know of the step: rows of tokens at once, and how far they see back."""

    rows: int
    tokens_per_row: int
    """In this forward pass: the sample, the prompt, or 1 while decoding."""
    seen_tokens: int
    """Of each row, with those of this pass: keys and values that attention reads."""
    lora_rank: int = 0
    prompt_tokens: int = 0
    """Of each row, while decoding: their numbers stay."""

    @property
    def tokens(self) -> int:
        return self.rows * self.tokens_per_row


def kind_of(layer: Layer) -> str:
    """What sets layers of one model apart: how they mix, and how they feed forward."""
    mixer = layer.mixer
    windowed = isinstance(mixer, Attention) and mixer.window is not None
    mixing = mixer.kind if not isinstance(mixer, Attention) else "window" if windowed else "full"
    mlp = layer.feed_forward
    return f"{mixing}, {'experts' if mlp.experts else 'dense' if mlp.intermediate_size else 'alone'}"


def structure_of(shape: ModelShape) -> str:
    """All that decides which operations run, and no size: two models with one structure obey one law."""
    layers = [layer for layer, _ in shape.counted_layers]
    kinds = {kind_of(layer): layer for layer in layers}
    grouped = any(isinstance(one.mixer, Attention) and one.mixer.kv_heads < one.mixer.heads for one in layers)
    words = [text_architecture(shape), "tied" if shape.tied else "untied"]
    words.append("grouped" if grouped else "one key per query")
    if any(isinstance(one.mixer, Attention) and one.mixer.value_size != one.mixer.head_size for one in layers):
        words.append("values of another size")
    words += [f"{name} {value}" for name, value in sorted(shape.traits.items())]
    for kind, layer in sorted(kinds.items()):
        linears = ", ".join(linear.name + ("+bias" if linear.bias else "") for linear in layer.linears)
        words.append(f"{kind}: {linears}")
    return "; ".join(words)


TEXT_ARCHITECTURES = {
    "gemma3": "gemma3_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "kimi_vl": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Models with eyes, by the text model in them: its layers are what a text step goes through."""


LATENT_NORMED = ("attention.kv_b_proj", "attention.q_b_proj")
"""Matrices that read a compressed vector, which has a norm of its own."""


def text_architecture(shape: ModelShape) -> str:
    return TEXT_ARCHITECTURES.get(shape.architecture, shape.architecture)


def layer_sizes(shape: ModelShape, layer: Layer, step: Step) -> Sizes:
    """Everything that a layer's tensors may be as large as, in elements."""
    sizes: Sizes = {"one": 1.0}
    for width, elements in _widths(shape, layer):
        sizes[f"tokens {width}"] = float(step.tokens * elements)
    sizes |= _attention_sizes(layer, step)
    if isinstance(layer.mixer, Attention):
        sizes["context head"] = float((shape.context_tokens or 0) * layer.mixer.head_size)
    for linear in layer.linears:
        sizes[f"weights {linear.name}"] = float(linear.weights)
        if step.lora_rank:
            sizes[f"adapter A {linear.name}"] = float(step.lora_rank * linear.copies * linear.inputs)
            sizes[f"adapter B {linear.name}"] = float(step.lora_rank * linear.copies * linear.outputs)
        if linear.bias:
            sizes[f"vector {linear.name}"] = float(linear.parameters - linear.weights)
    if isinstance(layer.mixer, Attention) and layer.mixer.latent_size is not None:
        sizes["rows seen latent"] = float(step.rows * step.seen_tokens * layer.mixer.latent_size)
        sizes["rows seen rotated"] = float(step.rows * step.seen_tokens * _rotary_size(layer))
        for linear in layer.linears:
            if linear.name == "attention.kv_b_proj":
                sizes["rows seen expanded"] = float(step.rows * step.seen_tokens * linear.outputs)
        sizes |= {f"vector in {one.name}": float(one.inputs) for one in layer.linears if one.name in LATENT_NORMED}
    sizes["vector experts"] = float(layer.feed_forward.experts)
    sizes["vector hidden"] = float(shape.hidden_size)
    sizes["vector norms"] = float(layer.norm_parameters)
    sizes["vector other"] = float(layer.other_parameters)
    if shape.traits.get("position") != "rope":
        old = _sizes_of_old_positions(shape, step)
        sizes |= {name: old[name] for name in ("positions hidden", "position table", "heads context")}
    if step.lora_rank:
        sizes["tokens rank"] = float(step.tokens * step.lora_rank)
    return sizes


def outside_sizes(shape: ModelShape, step: Step) -> Sizes:
    """Embedding, masks, rotary tables, last norm, head and loss, and what lasts from the beginning."""
    first = shape.layers[0]
    head_size = _rotary_size(first)
    heads = first.mixer.heads if isinstance(first.mixer, Attention) else 0
    windows = [
        layer.mixer.window
        for layer, _ in shape.counted_layers
        if isinstance(layer.mixer, Attention) and layer.mixer.window
    ]
    context = shape.context_tokens or 0
    sizes: Sizes = {
        "one": 1.0,
        "tokens": float(step.tokens),
        "tokens hidden": float(step.tokens * shape.hidden_size),
        "tokens vocabulary": float(step.tokens * shape.vocabulary_size),
        "rows vocabulary": float(step.rows * shape.vocabulary_size),
        "rows hidden": float(step.rows * shape.hidden_size),
        "rows": float(step.rows),
        "positions": float(step.tokens_per_row),
        "positions head": float(step.tokens_per_row * head_size),
        "tokens head": float(step.tokens * head_size),
        "mask": float(step.rows * step.tokens_per_row * step.seen_tokens),
        "mask of one row": float(step.tokens_per_row * step.seen_tokens),
        "seen": float(step.seen_tokens),
        "rows prompt": float(step.rows * step.prompt_tokens),
        "rank hidden": float(step.lora_rank * shape.hidden_size),
        "rows seen": float(step.rows * step.seen_tokens),
        "rows heads seen": float(step.rows * heads * step.seen_tokens),
        "scores": float(step.rows * heads * step.tokens_per_row * step.seen_tokens),
        "hidden": float(shape.hidden_size),
        "head": float(head_size),
        "vocabulary": float(shape.vocabulary_size),
        "table": float(shape.embedding_parameters - _position_table(shape)),
        "other parameters": float(shape.other_parameters),
        **_cache_sizes(shape, step),
        **_sums_over_layers(shape, step.lora_rank),
        "layers": float(len(shape.layers)),
        "layers head": float(len(shape.layers) * head_size),
        "context": float(context),
        "context head": float(context * head_size),
        "layers context head": float(len(shape.layers) * context * head_size),
        "layers context square": float(len(shape.layers) * context**2),
        "context square": float(context**2),
    }
    if shape.traits.get("position") != "rope":
        sizes |= _sizes_of_old_positions(shape, step)
    if windows:
        window = min(max(windows), step.seen_tokens)
        sizes["window"] = float(window)
        sizes["rows window"] = float(step.rows * window)
        sizes["window mask"] = float(step.rows * step.tokens_per_row * window)
    return sizes


def _sizes_of_old_positions(shape: ModelShape, step: Step) -> Sizes:
    """Learned tables are read as wide as the hidden state; ALiBi's slopes have a row for each head."""
    first = shape.layers[0].mixer
    heads = first.heads if isinstance(first, Attention) else 0
    return {
        "positions hidden": float(step.tokens_per_row * shape.hidden_size),
        "position table": float(_position_table(shape)),
        "heads": float(heads),
        "heads seen": float(heads * step.seen_tokens),
        "heads mask": float(heads * step.tokens_per_row * step.seen_tokens),
        "heads context": float(heads * (shape.context_tokens or 0)),
    }


def _rotary_size(layer: Layer) -> int:
    """Head size that rotary tables have: a latent cache's keys are rotated in what is not compressed."""
    if not isinstance(layer.mixer, Attention):
        return 0
    compressed = [linear.inputs for linear in layer.linears if linear.name == "attention.kv_b_proj"]
    if layer.mixer.latent_size is None or not compressed:
        return layer.mixer.head_size
    return layer.mixer.latent_size - compressed[0]


def _position_table(shape: ModelShape) -> int:
    """Parameters of learned positions."""
    if shape.traits.get("position") != "learned":
        return 0
    return max(0, shape.embedding_parameters - shape.vocabulary_size * shape.hidden_size)


@lru_cache(maxsize=64)
def _sums_over_layers(shape: ModelShape, lora_rank: int) -> Sizes:
    """What autocast keeps until it ends: copies of the trained weights in the compute type."""
    linears = [(linear, count) for layer, count in shape.counted_layers for linear in layer.linears]
    single = [(linear, count) for linear, count in linears if linear.copies == 1]
    sizes = {
        "all weights": float(sum(count * linear.weights for linear, count in linears)),
        "all single weights": float(sum(count * linear.weights for linear, count in single)),
        "all biases": float(sum(count * (linear.parameters - linear.weights) for linear, count in linears)),
        "all single biases": float(sum(count * (linear.parameters - linear.weights) for linear, count in single)),
        "all experts": float(sum(count * layer.feed_forward.experts for layer, count in shape.counted_layers)),
    }
    if not lora_rank:
        return sizes
    adapters = {"modules": 0, "attention": 0, "routers": 0, "experts in": 0, "experts out": 0}
    for adapted, count in counted_adapted_linears(shape, Workload(task="train", method="lora")):
        linear, rank = adapted.linear, count * adapted.ranks * lora_rank * adapted.linear.copies
        if linear.copies > 1:
            adapters["experts in"] += rank * linear.inputs
            adapters["experts out"] += rank * linear.outputs
            continue
        elements = count * adapted.parameters(lora_rank)
        if linear.name.startswith("attention"):
            adapters["attention"] += elements
        adapters["routers" if linear.name.startswith("router") else "modules"] += elements
    return sizes | {f"all adapters of {name}": float(elements) for name, elements in adapters.items()}


def _cache_sizes(shape: ModelShape, step: Step) -> Sizes:
    """Keys and values of all layers, and what they grow by with a token, where a window bounds them and where not."""
    cache = token = bounded_token = latent = states = 0
    for layer, count in shape.counted_layers:
        if not isinstance(layer.mixer, Attention):
            states += count * layer.mixer.state_elements
            continue
        latent += count * (layer.mixer.latent_size or 0)
        elements, window = count * layer.mixer.cache_elements_per_token, layer.mixer.window
        cache += elements * (step.seen_tokens if window is None else min(step.seen_tokens, window))
        if window is None:
            token += elements
        else:
            bounded_token += elements
    return {
        "rows cache": float(step.rows * cache),
        "rows latent cache": float(step.rows * step.seen_tokens * latent),
        "rows latent cache token": float(step.rows * latent),
        "rows cache token": float(step.rows * token),
        "rows bounded cache token": float(step.rows * bounded_token),
        "rows states": float(step.rows * states),
    }


def _widths(shape: ModelShape, layer: Layer) -> Iterator[tuple[str, int]]:
    """Elements for one token: hidden states, what each matrix reads and writes, heads, and the experts' share."""
    yield "one", 1
    yield "hidden", shape.hidden_size
    mlp = layer.feed_forward
    for linear in layer.linears:
        yield from _linear_widths(linear, mlp.active_experts)
    if isinstance(layer.mixer, Attention):
        mixer = layer.mixer
        yield "heads", mixer.heads
        yield "KV heads", mixer.kv_heads
        yield "head", mixer.head_size
        yield "queries", mixer.heads * mixer.head_size
        yield "keys", mixer.kv_heads * mixer.head_size
        yield "values", mixer.kv_heads * mixer.value_size
        yield "outputs", mixer.heads * mixer.value_size
    else:
        yield "state", layer.mixer.state_elements
    if mlp.experts:
        yield "experts", mlp.experts
        yield "chosen", mlp.active_experts
        yield "chosen hidden", mlp.active_experts * shape.hidden_size
        yield "experts hidden", mlp.experts * shape.hidden_size


def _linear_widths(linear: Linear, active: int) -> Iterator[tuple[str, int]]:
    if linear.copies > 1:
        yield f"chosen out {linear.name}", active * linear.outputs
        yield f"chosen in {linear.name}", active * linear.inputs
        yield f"experts out {linear.name}", linear.copies * linear.outputs
        return
    yield f"out {linear.name}", linear.outputs
    yield f"in {linear.name}", linear.inputs


def _attention_sizes(layer: Layer, step: Step) -> Sizes:
    """Scores and masks where they are written out, and what the cache holds of this layer."""
    if not isinstance(layer.mixer, Attention):
        return {"rows state": float(step.rows * layer.mixer.state_elements)}
    mixer = layer.mixer
    seen = step.seen_tokens
    kept = seen if mixer.window is None else min(seen, mixer.window)
    bounded = {
        "rows kept": float(step.rows * kept),
        "rows heads kept": float(step.rows * mixer.heads * kept),
        "rows kept queries": float(step.rows * kept * mixer.heads * mixer.head_size),
        "rows kept outputs": float(step.rows * kept * mixer.heads * mixer.value_size),
    }
    return (bounded if mixer.window is not None else {}) | {
        "scores": float(step.rows * mixer.heads * step.tokens_per_row * seen),
        "mask": float(step.rows * step.tokens_per_row * seen),
        "rows heads seen": float(step.rows * mixer.heads * seen),
        "heads seen": float(mixer.heads * seen),
        "rows seen keys": float(step.rows * seen * mixer.kv_heads * mixer.head_size),
        "rows seen values": float(step.rows * seen * mixer.kv_heads * mixer.value_size),
        "rows seen queries": float(step.rows * seen * mixer.heads * mixer.head_size),
        "rows seen outputs": float(step.rows * seen * mixer.heads * mixer.value_size),
        "rows kept keys": float(step.rows * kept * mixer.kv_heads * mixer.head_size),
        "rows kept values": float(step.rows * kept * mixer.kv_heads * mixer.value_size),
        "mask of one row": float(step.tokens_per_row * seen),
        "positions": float(step.tokens_per_row),
        "positions head": float(step.tokens_per_row * _rotary_size(layer)),
    }
