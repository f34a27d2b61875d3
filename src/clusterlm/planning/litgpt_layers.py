"""What LitGPT's layers and loss keep for the backward pass, in bytes for one token, and which parameters it trains.

Source: litgpt 0.4.13, model.py, lora.py, adapter.py, adapter_v2.py, and Fabric's HalfPrecision; every term below is
one saved tensor of a trace of that code with flash attention. lit-gpt of 2023-10 saves the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.shape import Attention, Layer, ModelShape
from clusterlm.planning.workload import Workload

QKV = ("query", "key", "value")
LORA_TARGETS = (*QKV, "projection", "mlp", "head")
ADAPTER_PROMPT_TOKENS = 10
ADAPTER_START_LAYER = 2
LOSS_CHUNK_TOKENS = 128
"""lm_head_chunk_size, adapter_prompt_length and adapter_start_layer: LitGPT's defaults."""
SOFTCAPPED = ("gemma2",)
PARALLEL = ("gpt_neox",)
"""Architectures with soft-capped scores; with attention and MLP side by side whatever their config leaves out."""
DROPOUT_BYTES = 3
"""LoRA's dropout of 0.05: its output in 16 bits and a mask of one byte."""


@dataclass(frozen=True)
class Widths:
    """Sizes of one layer of LitGPT."""

    hidden: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    """Of the experts that a token passes through, together."""
    gates: int
    """Matrices that lead into the MLP: 2 where it is gated."""
    norms: int
    grouped: bool


def widths(shape: ModelShape, layer: Layer) -> Widths:
    mixer, mlp = layer.mixer, layer.feed_forward
    if not isinstance(mixer, Attention):
        raise ValueError(f"LitGPT has no {mixer.kind} layers")
    norm_size = shape.hidden_size * (1 if shape.traits.get("norm") == "rms" else 2)
    return Widths(
        hidden=shape.hidden_size,
        heads=mixer.heads,
        queries=mixer.heads * mixer.head_size,
        keys=mixer.kv_heads * mixer.head_size,
        intermediate=mlp.active_experts * mlp.expert_size if mlp.experts else mlp.intermediate_size,
        gates=2 if mlp.gated else 1,
        norms=layer.norm_parameters // norm_size,
        grouped=mixer.kv_heads < mixer.heads,
    )


def saved_bytes(shape: ModelShape, layer: Layer, index: int, workload: Workload, quantised: bool) -> float:
    """One token of one layer; layers below the first adapter prompt have nothing to train and keep nothing."""
    if workload.method == "adapter-v1" and index < ADAPTER_START_LAYER:
        return 0.0
    width = widths(shape, layer)
    total = _norms(shape, width, workload) + _attention(shape, width, workload)
    total += width.intermediate * (6 if width.gates == 2 else 2)
    if workload.method == "lora":
        total += _lora(width, workload)
    if workload.method == "full" or quantised:
        total += 2 * input_elements(shape, width)
    if workload.method == "adapter-v2":
        total += 2 * (width.queries + 2 * width.keys + 2 * width.hidden + width.gates * width.intermediate)
    if workload.method.startswith("adapter") and index >= ADAPTER_START_LAYER:
        total += 2 * width.queries
    return total


def _norms(shape: ModelShape, width: Widths, workload: Workload) -> float:
    """RMSNorm keeps its input in float32, and once more normalised where its weight is trained."""
    if shape.traits.get("norm") == "rms":
        trained = workload.method in ("full", "adapter-v2")
        return width.norms * width.hidden * (8.0 if trained else 4.0)
    return 2.0 * width.hidden * (1 if _parallel(shape) else width.norms)


def _parallel(shape: ModelShape) -> bool:
    return shape.traits.get("parallel_residual") is not None or shape.architecture in PARALLEL


def _attention(shape: ModelShape, width: Widths, workload: Workload) -> float:
    """Flash attention keeps queries, keys and values repeated for all heads, its output and a logarithm per head.

    Without grouped queries the values are a view that keeps the fused product of all three alive. Soft-capped scores
    are written out: tanh, softmax in float32, and its copy in 16 bits.
    """
    if shape.architecture in SOFTCAPPED:
        return 6 * width.queries + 8 * width.heads * workload.sequence_tokens
    values = width.queries if width.grouped else width.queries + 2 * width.keys
    return 2 * (3 * width.queries + values) + 4 * width.heads


def _lora(width: Widths, workload: Workload) -> float:
    """Dropped-out inputs of the adapted matrices; where not all of q, k, v are adapted, the update before padding."""
    targets, rank = workload.lora_targets, 2.0 * workload.lora_rank
    outputs = {"query": width.queries, "key": width.keys, "value": width.keys}
    enabled = [outputs[name] for name in QKV if name in targets]
    total = 0.0
    if enabled:
        total += DROPOUT_BYTES * width.hidden + rank * len(enabled)
        total += 2 * sum(enabled) if len(enabled) < len(QKV) else 0
    if "projection" in targets:
        total += DROPOUT_BYTES * width.queries + rank
    if "mlp" in targets:
        total += DROPOUT_BYTES * (width.gates * width.hidden + width.intermediate) + rank * (width.gates + 1)
    return total


def input_elements(shape: ModelShape, width: Widths) -> int:
    """What the matrices read, each tensor once: bitsandbytes' 4-bit product keeps it as a trained matrix would."""
    shared_norm = _parallel(shape) and width.norms == 1
    return (1 if shared_norm else 2) * width.hidden + width.queries + width.intermediate


def head_bytes(shape: ModelShape, workload: Workload, quantised: bool) -> float:
    """Last norm and head, for one token."""
    hidden, rms = shape.hidden_size, shape.traits.get("norm") == "rms"
    trained_norm = workload.method in ("full", "adapter-v2")
    norm = (8 if trained_norm else 4) if rms else 2
    total = float(norm * hidden)
    if workload.method == "lora" and "head" in workload.lora_targets:
        total += DROPOUT_BYTES * hidden + 2 * workload.lora_rank
    if workload.method == "full" or quantised:
        total += 2 * hidden
    if workload.method == "adapter-v2":
        total += 2 * shape.vocabulary_size
    return total


def loss_bytes(shape: ModelShape, workload: Workload) -> float:
    """Of all tokens: Fabric hands the logits out in float32 (4), and log-softmax keeps as much again.

    Full fine-tuning adds the shifted copy. Where the head works in chunks, two chunks move in the backward pass; and
    the loop holds the last micro-batch's logits (4) until the new ones are there, in 16 bits and in float32 (6).
    """
    tokens, vocabulary = workload.tokens, shape.vocabulary_size
    if workload.software.engine == "litgpt-pretrain":
        return 8.0 * tokens * vocabulary
    if workload.method == "full":
        return 12.0 * tokens * vocabulary
    chunk = min(LOSS_CHUNK_TOKENS, workload.sequence_tokens) * workload.batch
    backward = 8.0 * (tokens + chunk)
    return vocabulary * (backward if workload.longest_is_rare else max(backward, 10.0 * tokens))


def trained_parameters(shape: ModelShape, workload: Workload) -> int:
    if workload.method == "full":
        return shape.parameters + untied_head_parameters(shape)
    layers = [widths(shape, layer) for layer in shape.layers]
    if workload.method == "lora":
        head = shape.hidden_size + shape.vocabulary_size if "head" in workload.lora_targets else 0
        return workload.lora_rank * (head + sum(_lora_rows(width, workload.lora_targets) for width in layers))
    prompts = sum(ADAPTER_PROMPT_TOKENS * width.hidden + width.heads for width in layers[ADAPTER_START_LAYER:])
    if workload.method == "adapter-v1":
        return prompts
    outputs = sum(linear.outputs * linear.copies for layer in shape.layers for linear in layer.linears)
    norms = sum(layer.norm_parameters for layer in shape.layers) + shape.final_norm_parameters
    return prompts + 2 * (outputs + shape.vocabulary_size) + norms


def _lora_rows(width: Widths, targets: tuple[str, ...]) -> int:
    """Inputs + outputs of a layer's adapted matrices."""
    rows = {
        "query": width.hidden + width.queries,
        "key": width.hidden + width.keys,
        "value": width.hidden + width.keys,
        "projection": width.queries + width.hidden,
        "mlp": (width.gates + 1) * (width.hidden + width.intermediate),
    }
    return sum(rows[name] for name in targets if name in rows)


def untied_head_parameters(shape: ModelShape) -> int:
    """LitGPT never ties the head to the embedding."""
    return shape.vocabulary_size * shape.hidden_size if shape.tied else 0
