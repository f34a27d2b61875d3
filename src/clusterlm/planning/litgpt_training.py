"""Memory of LitGPT's fine-tuning and pretraining: 16 bits throughout, gradients kept from micro-batch to micro-batch.

One GPU: no checkpointing. FSDP: every block is recomputed, and `no_sync` lets the gradients of whole blocks, frozen
weights included, pile up unsharded. Source: litgpt 0.4.13, finetune/*.py, pretrain.py; torch FSDP (use_orig_params).
"""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.coefficients import LITGPT_DEQUANTISED_COPIES, at_version
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.litgpt_layers import (
    head_bytes,
    input_elements,
    loss_bytes,
    saved_bytes,
    trained_parameters,
    untied_head_parameters,
    widths,
)
from clusterlm.planning.weights import Scheme, WeightSizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

SOURCE = "litgpt 0.4.13, traced"
ELEMENT_BYTES = 2
HELD_LOGITS_BYTES = 4
"""Per token and vocabulary entry: the loop's own reference to the logits in float32."""


def litgpt_training_phases(
    shape: ModelShape,
    workload: Workload,
    weights: WeightSizes,
    scheme: Scheme | None,
    strategy: Strategy,
    workspace: int,
) -> tuple[Phase, ...]:
    held = _held(shape, workload, weights, scheme, strategy, workspace)
    trained = trained_parameters(shape, workload)
    sharded = strategy.model_shards > 1
    gradients = Item("gradients", trained * ELEMENT_BYTES // strategy.gradient_shards, "trained parameters x 2 B")
    step = Item("optimizer's temporaries", gradients.bytes if workload.optimizer == "adamw" else 0, "foreach: one copy")
    finish = Phase("optimizer step", (*held, gradients, step))
    loss = Item("logits and loss", round(loss_bytes(shape, workload)), "tokens x 8 to 12 x vocabulary B", SOURCE)
    if sharded and workload.checkpointing:
        return (*_recomputing(shape, workload, weights, held, loss), finish)
    saved = _saved(shape, workload, scheme)
    logits = Item("logits", HELD_LOGITS_BYTES * workload.tokens * shape.vocabulary_size, "tokens x 4 x vocabulary B")
    moving = Item("one layer's backward", _moving_bytes(shape, workload), "tokens x 4 x intermediate B")
    unpacked = _of_quantised(shape, workload, scheme)
    table = shape.embedding_parameters * ELEMENT_BYTES if workload.method == "full" else 0
    new = Item("new gradient of the embedding", table, "vocabulary x hidden x 2 B, before it is added")
    return (
        Phase("forward end, loss", (*held, gradients, saved, loss, *unpacked)),
        Phase("first layer backward", (*held, gradients, saved, logits, moving)),
        Phase("backward end", (*held, gradients, logits, new)),
        finish,
    )


def _held(
    shape: ModelShape,
    workload: Workload,
    weights: WeightSizes,
    scheme: Scheme | None,
    strategy: Strategy,
    workspace: int,
) -> tuple[Item, ...]:
    trained, shards = trained_parameters(shape, workload), strategy.model_shards
    adapters = 0 if workload.method == "full" else trained * ELEMENT_BYTES
    items = [
        Item("weights", base_bytes(shape, weights, scheme) // shards, "parameters x 2 B, head never tied"),
        Item("adapters", adapters // shards, "trained parameters x 2 B"),
        Item("optimizer states", 2 * trained * ELEMENT_BYTES // shards, "AdamW: two of 2 B for each trained parameter"),
        Item("cuBLAS workspaces", workspace, "two handles"),
    ]
    if strategy.sharding == "ddp":
        items.append(Item("DDP buckets", trained * ELEMENT_BYTES, "one copy of the gradients"))
    return tuple(item for item in items if item.bytes)


def base_bytes(shape: ModelShape, weights: WeightSizes, scheme: Scheme | None) -> int:
    """Weights as LitGPT holds them: a head of its own, quantised like every other matrix."""
    head = shape.vocabulary_size * shape.hidden_size
    per_weight = scheme.per_weight if scheme else ELEMENT_BYTES
    return weights.embedding + sum(weights.layers) + weights.other + round(head * per_weight)


def _saved(shape: ModelShape, workload: Workload, scheme: Scheme | None) -> Item:
    quantised = scheme is not None
    per_token = head_bytes(shape, workload, quantised)
    for index, layer in enumerate(shape.layers):
        per_token += saved_bytes(shape, layer, index, workload, quantised)
    return Item("activations saved", round(workload.tokens * per_token), "sum of saved tensors", SOURCE)


def _of_quantised(shape: ModelShape, workload: Workload, scheme: Scheme | None) -> tuple[Item, ...]:
    """bitsandbytes <= 0.44 keeps inputs on `ctx`, not as saved tensors: they outlive the backward pass until the loop
    replaces the last micro-batch's loss."""
    if scheme is None:
        return ()
    copies = at_version(LITGPT_DEQUANTISED_COPIES, workload.software.version)
    head = shape.vocabulary_size * shape.hidden_size * ELEMENT_BYTES
    unpacked = Item("head, dequantised", copies * head, f"{copies} x vocabulary x hidden x 2 B")
    if workload.longest_is_rare:
        return (unpacked,)
    elements = sum(input_elements(shape, widths(shape, layer)) for layer in shape.layers)
    last = workload.tokens * ELEMENT_BYTES * elements
    return (unpacked, Item("last micro-batch's inputs", last, "tokens x inputs x 2 B", "bitsandbytes 0.42 MatMul4Bit"))


def _moving_bytes(shape: ModelShape, workload: Workload) -> int:
    """Two gradients as wide as the MLP."""
    return workload.tokens * 4 * max(widths(shape, layer).intermediate for layer in shape.layers)


def _recomputing(
    shape: ModelShape, workload: Workload, weights: WeightSizes, held: tuple[Item, ...], loss: Item
) -> tuple[Phase, ...]:
    """FSDP with every block checkpointed."""
    tokens, hidden, vocabulary = workload.tokens, shape.hidden_size, shape.vocabulary_size
    parameters = shape.parameters + untied_head_parameters(shape)
    root = weights.outside_layers + untied_head_parameters(shape) * ELEMENT_BYTES
    layer = max(saved_bytes(shape, one, index, workload, False) for index, one in enumerate(shape.layers))
    whole = Item("gradients, whole", parameters * ELEMENT_BYTES, "all parameters x 2 B: no_sync", "torch FSDP no_sync")
    gathered = Item("root unit, whole", root, "embedding, head, last norm")
    blocks = Item("block and its gradient, whole", 2 * max(weights.layers), "2 x one block")
    saved = Item("activations saved", tokens * hidden * ELEMENT_BYTES * len(shape.layers), "tokens x layers x hidden")
    logits = Item("logits", HELD_LOGITS_BYTES * tokens * vocabulary, "tokens x 4 x vocabulary B")
    again = Item(
        "one block recomputed", round(tokens * layer) + _moving_bytes(shape, workload), "saved tensors", SOURCE
    )
    return (
        Phase("forward end, loss", (*held, whole, gathered, saved, loss)),
        Phase("last layer backward", (*held, whole, gathered, blocks, logits, again)),
    )
