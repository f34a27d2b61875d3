"""What a layer of transformers 4 keeps for the backward pass where nothing is recomputed, in bytes for one token.

Source: modeling_llama.py, modeling_bert.py and their like of transformers 4.40 to 4.49: one term for each tensor that
autograd saves. Expected of other layers: the same operations on their own widths.
"""

from __future__ import annotations

from clusterlm.model.shape import Attention, Layer, ModelShape
from clusterlm.planning.adapters import adapts
from clusterlm.planning.workload import Workload

FLOAT32_BYTES = 4
DROPOUT_MASK_BYTES = 1
PYTHON_GELU = ("gelu_new", "gelu_fast")
SCALES_IN_FLOAT32 = ("gemma", "gemma2", "gemma3_text")
"""RMSNorm times (1 + weight) before the cast back."""
FLOAT32_LAYER_NORM = ("cohere", "cohere2")
"""LayerNorm written out in float32: its centred input and its result."""
PARALLEL = ("gpt_neox",)
"""Attention and MLP side by side whatever the config leaves out."""
UNBALANCED = 2
"""Tokens of the busiest expert over the mean: assumed."""
PYTHON_GELU_COPIES = 4
"""GELU by tanh, written out in Python: input, tanh, and two products."""


def kept_bytes(shape: ModelShape, layer: Layer, workload: Workload, size: float, repeats: bool) -> float:
    return (
        _norms(shape, layer, workload, size)
        + _attention(layer, workload, size, repeats)
        + score_bytes(layer, workload, size)
        + _mlp(shape, layer, workload, size)
        + _inputs(shape, layer, workload, size)
    )


def score_bytes(layer: Layer, workload: Workload, size: float) -> float:
    """Eager attention writes its scores out: softmax in float32, its copy in the compute type, and dropout's mask."""
    if workload.attention != "eager" or not isinstance(layer.mixer, Attention):
        return 0.0
    copies = FLOAT32_BYTES + size + DROPOUT_MASK_BYTES
    return layer.mixer.heads * workload.sequence_tokens * copies


def _norms(shape: ModelShape, layer: Layer, workload: Workload, size: float) -> float:
    """RMSNorm computes in float32 and keeps that copy, and the normalised one where its weight is trained.

    LayerNorm keeps its input; attention and MLP side by side read the same one, and drop nothing out.
    """
    hidden = shape.hidden_size
    if shape.traits.get("norm") == "rms":
        trained = FLOAT32_BYTES if shape.architecture in SCALES_IN_FLOAT32 else size
        count = max(1, layer.norm_parameters // hidden)
        return count * hidden * (FLOAT32_BYTES + (trained if workload.method == "full" else 0))
    if shape.architecture in FLOAT32_LAYER_NORM:
        return 2 * FLOAT32_BYTES * hidden
    if shape.traits.get("parallel_residual") or shape.architecture in PARALLEL:
        return hidden * size
    return 2 * hidden * (size + DROPOUT_MASK_BYTES)


def _attention(layer: Layer, workload: Workload, size: float, repeats: bool) -> float:
    """Queries, keys, values and the output; without flash attention keys and values are repeated for all heads."""
    mixer = layer.mixer
    if not isinstance(mixer, Attention):
        return 4 * size * sum(linear.outputs for linear in layer.linears if linear.name.startswith("attention"))
    queries, keys = mixer.heads * mixer.head_size, mixer.kv_heads * mixer.head_size
    return size * (2 * queries + 2 * (queries if repeats else keys))


def _mlp(shape: ModelShape, layer: Layer, workload: Workload, size: float) -> float:
    """Gate, activated gate and the other product; without a gate the activation's input. Experts: each chosen one."""
    mlp = layer.feed_forward
    width = mlp.active_experts * mlp.expert_size + mlp.shared_size if mlp.experts else mlp.intermediate_size
    written_out = PYTHON_GELU_COPIES if shape.traits.get("activation") in PYTHON_GELU else 1
    kept = 3 if mlp.gated else written_out
    return size * (kept * width + 2 * mlp.active_experts * shape.hidden_size)


def _inputs(shape: ModelShape, layer: Layer, workload: Workload, size: float) -> float:
    """What trained matrices read. Adapters in float32 cast it anew for each matrix, but under autocast."""
    if workload.method == "full":
        mlp = layer.feed_forward
        width = mlp.active_experts * mlp.expert_size if mlp.experts else mlp.intermediate_size
        return size * (2 * shape.hidden_size + width)
    return adapted_input_bytes(layer, workload, size)


def adapted_input_bytes(layer: Layer, workload: Workload, size: float, part: str = "") -> float:
    """Of the adapted matrices, or those of one part of the layer: a copy for each, and dropout's mask."""
    named = (linear for linear in layer.linears if linear.name.startswith(part))
    adapted = [linear for linear in named if adapts(linear, workload.lora_targets)]
    as_it_is = workload.autocast or workload.adapter_dtype != "float32"
    copy = (size if as_it_is else FLOAT32_BYTES) + (DROPOUT_MASK_BYTES if workload.lora_dropout else 0)
    return copy * sum(linear.inputs for linear in adapted)


def moving_bytes(shape: ModelShape, layer: Layer, workload: Workload, size: float) -> float:
    """Gradients on the way through one layer, at their highest: in its MLP, above what it keeps.

    Of frozen gated layers 3 intermediate + 2 hidden, exactly so in traces of transformers 4.48 (Llama, Mistral, Qwen);
    of others 2 intermediate + hidden (GPT-NeoX; full fine-tuning, whose matrices give their inputs back one by one).
    """
    mlp, hidden = layer.feed_forward, shape.hidden_size
    width = float(mlp.intermediate_size)
    if mlp.experts:
        share = min(1.0, UNBALANCED * mlp.active_experts / mlp.experts)
        width = max(mlp.expert_size * share, float(mlp.shared_size))
    if mlp.gated and workload.method != "full":
        return size * (3 * width + 2 * hidden)
    written_out = shape.traits.get("activation") in PYTHON_GELU
    return size * ((3 if written_out else 2) * width + hidden)
