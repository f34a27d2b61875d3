"""What the layers and the loss keep and need while training, by library: the part of memory that grows with tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterlm.model.shape import Attention, FeedForward, Layer, ModelShape
from clusterlm.planning.coefficients import (
    CROSS_ENTROPY,
    FLOAT32_CROSS_ENTROPY,
    OWN_TYPE_CROSS_ENTROPY,
    OWN_TYPE_LOSS,
    OWN_TYPE_LOSS_UNTIL,
    REPEATS_KEYS_FLASH,
    REPEATS_KEYS_UNTIL,
    SOFTCAP_BYTES,
    SOFTCAPPED_LOGITS,
    CrossEntropy,
    at_version,
)
from clusterlm.planning.kept import adapted_input_bytes, kept_bytes, moving_bytes, score_bytes
from clusterlm.planning.weights import element_bytes
from clusterlm.planning.workload import Workload


@dataclass(frozen=True)
class Activations:
    """Bytes on one GPU for one micro-batch."""

    saved: int
    """Alive from each layer's forward pass to its backward pass, summed over the layers."""
    frozen_units: int
    """FSDP1 only: inputs and gradients of frozen units that a hook keeps until the backward pass ends."""
    loss: int
    """Head and cross-entropy at their peak, above `saved`."""
    layer: int
    """One layer's backward pass (with its recomputation) at its peak, above `saved`."""
    saved_formula: str
    loss_formula: str
    layer_formula: str
    source: str


@dataclass(frozen=True)
class Widths:
    """A layer's widths as the formulas use them, in elements for one token."""

    hidden: int
    queries: int
    keys: int
    intermediate: int
    """Summed over the experts that a token passes through."""
    moving_intermediate: float
    """Of the expert that is walked back: twice its mean share of a token, for want of balance; all of a dense MLP."""
    gated: bool
    active_experts: int


def widths(shape: ModelShape, layer: Layer) -> Widths:
    mixer, mlp = layer.mixer, layer.feed_forward
    queries = mixer.heads * mixer.head_size if isinstance(mixer, Attention) else shape.hidden_size
    keys = mixer.kv_heads * mixer.head_size if isinstance(mixer, Attention) else shape.hidden_size
    return Widths(
        hidden=shape.hidden_size,
        queries=queries,
        keys=keys,
        intermediate=mlp_width(mlp),
        moving_intermediate=_moving(mlp),
        gated=mlp.gated,
        active_experts=mlp.active_experts,
    )


def _moving(mlp: FeedForward) -> float:
    if not mlp.experts:
        return float(mlp.intermediate_size)
    return max(mlp.expert_size * min(1.0, 2 * mlp.active_experts / mlp.experts), float(mlp.shared_size))


def mlp_width(mlp: FeedForward) -> int:
    return mlp.active_experts * mlp.expert_size + mlp.shared_size if mlp.experts else mlp.intermediate_size


def trainer_activations(shape: ModelShape, workload: Workload, *, sharded: bool, hooked: bool) -> Activations:
    """transformers 4.40 to 4.49, plain or with fused kernels; checkpointed, or all kept.

    `hooked`: FSDP1, whose hooks hold the inputs of frozen units; FSDP2 and ZeRO-3 have none.
    Slopes of fms-acceleration's published runs: memory per token of packed sequences, Mistral-7B and Llama-3-8B.
    """
    size = element_bytes(workload.dtype)
    tokens, hidden, count = workload.tokens, shape.hidden_size, len(shape.layers)
    checkpoint_size = 4 if workload.cast_frozen_to_float32 and not sharded else size
    entropy = cross_entropy(shape, workload)
    frozen = workload.method != "full"
    repeats = repeats_keys(shape, workload)
    layer = max(_recomputed_layer(shape, one, workload, size, repeats) for one, _ in shape.counted_layers)
    saved, formula = float(count * hidden * checkpoint_size), f"tokens x layers x hidden x {checkpoint_size:g} B"
    if not workload.checkpointing:
        saved = sum(number * kept_bytes(shape, one, workload, size, repeats) for one, number in shape.counted_layers)
        layer, formula = layer - saved / count, "tokens x what each layer keeps"
    return Activations(
        saved=round(tokens * saved),
        frozen_units=round(tokens * size * hidden * (count - 2)) if frozen and hooked and workload.checkpointing else 0,
        loss=round(tokens * entropy.bytes_per_token(shape.vocabulary_size, hidden)),
        layer=round(tokens * max(layer, 0.0)),
        saved_formula=formula,
        loss_formula=f"tokens x ({entropy.per_vocabulary:g} x vocabulary + {entropy.per_hidden:g} x hidden) B",
        layer_formula="tokens x (what one layer keeps + gradients on the way)",
        source=entropy.source,
    )


def cross_entropy(shape: ModelShape, workload: Workload) -> CrossEntropy:
    software = workload.software
    if (
        shape.architecture in OWN_TYPE_LOSS
        and software.version < OWN_TYPE_LOSS_UNTIL
        and software.kernels != "fused-loss"
    ):
        return OWN_TYPE_CROSS_ENTROPY[(software.kernels, workload.autocast)]
    entropy = at_version(CROSS_ENTROPY[("transformers", software.kernels)], software.version)
    if workload.dtype == "float32" and not workload.autocast and software.kernels == "plain":
        return FLOAT32_CROSS_ENTROPY
    if shape.architecture in SOFTCAPPED_LOGITS and software.kernels != "fused-loss":
        return replace(entropy, per_vocabulary=entropy.per_vocabulary + SOFTCAP_BYTES)
    return entropy


def repeats_keys(shape: ModelShape, workload: Workload) -> bool:
    """Whether attention reads keys and values repeated for all heads: SDPA does in all of transformers 4."""
    if workload.attention != "flash":
        return True
    return shape.architecture in REPEATS_KEYS_FLASH and workload.software.version < REPEATS_KEYS_UNTIL


def _recomputed_layer(shape: ModelShape, layer: Layer, workload: Workload, size: float, repeats: bool) -> float:
    """Bytes per token of one layer recomputed and walked back."""
    if workload.software.kernels == "plain":
        kept = kept_bytes(shape, layer, workload, size, repeats)
        return kept + moving_bytes(shape, layer, workload, size)
    adapters = adapted_input_bytes(layer, workload, size, "mlp") if workload.method in ("lora", "qlora") else 0.0
    fused = _fused_layer(widths(shape, layer), workload, size, repeats)
    return score_bytes(layer, workload, size) + fused + adapters


def _fused_layer(width: Widths, workload: Workload, size: float, repeats: bool) -> float:
    """Slopes of fms-acceleration's runs with fused kernels: a gated MLP holds 4 widths and needs 2.5 more.

    With adapters on attention that drop out; full fine-tuning has none of their inputs.
    """
    saved_mlp, moving_mlp = (4.0, 2.5) if width.gated else (2.0, 2.0)
    per_token: float = 8 * width.hidden + 3 * width.keys
    per_token += saved_mlp * width.intermediate + moving_mlp * width.moving_intermediate
    per_token += 2 * width.active_experts * width.hidden
    if repeats:
        per_token += 2 * (width.queries - width.keys)
    if workload.method == "lora":
        per_token += (1 if workload.autocast else 5) * width.hidden
    elif workload.method == "full":
        per_token -= 3 * width.hidden
    return per_token * size
