"""Memory of torchtitan's pretraining: FSDP2 with float32 shards, tensor and context parallel, operator-wise recompute.

Source: torchtitan, parallelize_llama.py (selective checkpointing keeps every second product and the output of
attention) and loss.py; torch fully_shard (current and prefetched unit whole, float32 reduce-scatter of one unit).
"""

from __future__ import annotations

from clusterlm.model.shape import Layer, ModelShape
from clusterlm.planning.activations import mlp_width, widths
from clusterlm.planning.coefficients import TORCHTITAN_LOSS, at_version
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import WeightSizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

STATE_BYTES = 4
COMPUTE_BYTES = 2
SELECTIVE = "tokens x (4 hidden + KV + intermediate) x 2 B for each layer"
FULL = "tokens x layers x hidden x 2 B"


def torchtitan_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, strategy: Strategy, workspace: int
) -> tuple[Phase, ...]:
    """`weights` in the compute type. `sequence_tokens` is what one rank of the context group holds."""
    tensor = strategy.tensor_degree
    shards = strategy.model_shards * tensor
    held = (
        Item("weights", STATE_BYTES * shape.parameters // shards, "parameters x 4 B / shards"),
        Item("optimizer states", 2 * STATE_BYTES * shape.parameters // shards, "AdamW: two of 4 B"),
        Item("cuBLAS workspaces", workspace, "two handles"),
    )
    gradients = Item("gradients", STATE_BYTES * shape.parameters // shards, "parameters x 4 B / shards")
    saved = _saved(shape, workload, tensor)
    root = Item("root unit, whole", weights.outside_layers // tensor, "embedding, head, last norm")
    unit = max(weights.layers) // tensor
    units = Item("layers, whole", 2 * unit, "current and prefetched")
    reduced = Item("gradient of a layer, reduced", 2 * unit + 2 * unit // strategy.model_shards, "float32 in and out")
    loss, moving = _loss(shape, workload, tensor), _layer(shape, workload, tensor)
    step = Item("optimizer's temporaries", 0, "fused AdamW")
    return (
        Phase("forward end, loss", (*held, root, saved, loss)),
        Phase("first layer backward", (*held, root, units, saved, reduced, moving)),
        Phase("last layer backward", (*held, root, units, gradients, reduced, moving)),
        Phase("optimizer step", (*held, gradients, step)),
    )


def _saved(shape: ModelShape, workload: Workload, tensor: int) -> Item:
    elements = sum(_kept_elements(shape, layer, workload) for layer in shape.layers)
    formula = SELECTIVE if workload.selective_checkpointing else FULL
    return Item("activations saved", round(workload.tokens * elements * COMPUTE_BYTES / tensor), formula, "torchtitan")


def _kept_elements(shape: ModelShape, layer: Layer, workload: Workload) -> int:
    """For one token: the layer's input; selectively also q, v, w1, w2 of its seven products, and attention's output."""
    if not workload.selective_checkpointing:
        return shape.hidden_size
    width = widths(shape, layer)
    return 2 * width.hidden + 2 * width.queries + width.keys + mlp_width(layer.feed_forward)


def _loss(shape: ModelShape, workload: Workload, tensor: int) -> Item:
    law = at_version(TORCHTITAN_LOSS, workload.software.torch)
    per_vocabulary = law.per_vocabulary_compiled if workload.software.compiled else law.per_vocabulary
    if workload.chunked_loss:
        per_vocabulary /= law.chunks
    size = round(workload.tokens * per_vocabulary * shape.vocabulary_size / tensor)
    return Item("head and loss", size, f"tokens x {per_vocabulary:g} x vocabulary B / tensor degree", law.source)


def _layer(shape: ModelShape, workload: Workload, tensor: int) -> Item:
    """A gated layer recomputed and walked back, as under transformers."""
    elements = 0.0
    for layer in set(shape.layers):
        width = widths(shape, layer)
        elements = max(elements, 8 * width.hidden + 3 * width.keys + 6.5 * width.intermediate)
    size = round(workload.tokens * elements * COMPUTE_BYTES / tensor)
    return Item("one layer's backward", size, "tokens x 2 x (8 hidden + 3 KV + 6.5 intermediate) B")
