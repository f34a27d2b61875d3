"""Memory of fine-tuning: load, end of the forward pass with the loss, backward pass, optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterlm.model.shape import ModelShape
from clusterlm.planning.activations import Activations
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.weights import WeightSizes, element_bytes, scheme_of
from clusterlm.planning.workload import Workload
from clusterlm.strategy import SHARDS_PARAMETERS, Strategy

OPTIMIZER_STATES: dict[str, float] = {
    "adamw": 2,
    "adamw-fused": 2,
    "sgd": 0,
}
"""Copies of a trained parameter, in its own type."""

DEEPSPEED_BUCKET_ELEMENTS = 500_000_000
DEEPSPEED_PREFETCH_ELEMENTS = 50_000_000
DEEPSPEED_LIVE_ELEMENTS = 1_000_000_000
DEEPSPEED_SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's defaults: reduce_bucket_size, stage3_prefetch_bucket_size, stage3_max_live_parameters, sub_group_size."""
DDP_FIRST_BUCKET_BYTES = 2**20


@dataclass(frozen=True)
class States:
    """Bytes that last from step to step on one GPU, and those of the gradients."""

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    step_temporaries: int
    master_copies: int
    trained: int


def training_states(shape: ModelShape, workload: Workload, weights: WeightSizes, strategy: Strategy) -> States:
    """Parameters, gradients and optimizer states of one rank, after sharding."""
    trained = trained_parameters(shape, workload)
    whole = workload.method == "full"
    in_float32 = workload.autocast and whole and strategy.sharding in ("fsdp1", "fsdp2")
    trained_type = workload.dtype if whole else workload.adapter_dtype
    size = 4.0 if in_float32 else element_bytes(trained_type)
    base = weights.total if not in_float32 else shape.parameters * 4
    deepspeed = strategy.sharding.startswith("zero")
    master = trained * 4 if deepspeed and size < 4 else 0
    state_size = 4.0 if deepspeed else size
    optimizer = optimizer_bytes(workload.optimizer, trained, state_size, shape)
    shared = 1 if not whole and strategy.sharding == "fsdp1" and workload.quantise else strategy.model_shards
    gradients = trained * size / strategy.gradient_shards
    states = States(
        weights=round((base + (strategy.model_shards - 1) * scale_bytes(shape, workload)) / strategy.model_shards),
        adapters=0 if whole else round(trained * size / shared),
        optimizer=round(optimizer / max(strategy.optimizer_shards if whole else shared, 1)),
        gradients=round(gradients),
        step_temporaries=_step_temporaries(shape, workload, strategy, trained, gradients),
        master_copies=round(master / strategy.optimizer_shards),
        trained=trained,
    )
    return _without_offloaded(states, strategy)


def scale_bytes(shape: ModelShape, workload: Workload) -> float:
    """Scales and zero points of a quantised model: no parameters, so that every rank of FSDP keeps them whole."""
    scheme = scheme_of(shape, workload.quantise)
    if scheme is None:
        return 0.0
    packed = 0.5 if scheme.per_weight < 1 else 1.0
    return shape.linear_weights * max(0.0, scheme.per_weight - packed)


def _step_temporaries(shape: ModelShape, workload: Workload, strategy: Strategy, trained: int, gradients: float) -> int:
    """DeepSpeed casts its partition's gradients to float32, ZeRO-3 by sub-groups; foreach AdamW copies them once;
    Adafactor holds one tensor's weight, gradient and update in float32."""
    if strategy.sharding.startswith("zero"):
        partition = trained / strategy.optimizer_shards
        at_once = min(partition, DEEPSPEED_SUB_GROUP_ELEMENTS) if strategy.sharding == "zero3" else partition
        return round(4 * at_once)
    if workload.optimizer == "adafactor" and workload.method == "full":
        matrices = (
            one.inputs * one.outputs * one.copies for layer, _ in shape.counted_all_layers for one in layer.linears
        )
        return 3 * 4 * max(shape.embedding_parameters, *matrices) // strategy.model_shards
    return round(gradients) if workload.optimizer == "adamw" else 0


def _without_offloaded(states: States, strategy: Strategy) -> States:
    """What stays on the GPU: gradients and master weights go with the optimizer; `cpu` and `nvme` take weights too."""
    if strategy.offload == "none":
        return states
    kept = replace(states, optimizer=0, master_copies=0, gradients=0, step_temporaries=0)
    if strategy.offload == "optimizer-cpu" or strategy.sharding not in SHARDS_PARAMETERS:
        return kept
    return replace(kept, weights=0, adapters=0)


def optimizer_bytes(optimizer: str, trained: int, size: float, shape: ModelShape) -> float:
    """States of all trained parameters before sharding; paged ones live on the host and are moved in by pages."""
    if optimizer in OPTIMIZER_STATES:
        return OPTIMIZER_STATES[optimizer] * trained * size
    if optimizer == "adamw-8bit":
        return trained * (2 + 8 / 256)
    if optimizer == "adafactor":
        linears = ((one, count) for layer, count in shape.counted_all_layers for one in layer.linears)
        rows = sum(count * one.copies * (one.inputs + one.outputs) for one, count in linears)
        return (rows + shape.hidden_size + shape.vocabulary_size) * 4.0
    return 0.0


def training_phases(
    shape: ModelShape,
    workload: Workload,
    weights: WeightSizes,
    strategy: Strategy,
    activations: Activations,
    workspace: int,
) -> tuple[Phase, ...]:
    states = training_states(shape, workload, weights, strategy)
    held = held_items(states, workspace)
    whole = gathered(shape, workload, weights, strategy)
    exchanged = buckets(shape, workload, strategy, states)
    saved = Item("activations saved", activations.saved, activations.saved_formula, activations.source)
    frozen = Item(
        "inputs of frozen units, kept", activations.frozen_units, "tokens x 2 x hidden x (layers - 2) B", FROZEN_SOURCE
    )
    loss = Item("head and loss", activations.loss, activations.loss_formula, activations.source)
    layer = Item("one layer's backward", activations.layer, activations.layer_formula, activations.source)
    gradients = Item("gradients", states.gradients, "trained parameters x bytes / shards")
    carried = [_carried(workload, strategy, states, gradients)] if workload.accumulation else []
    step = Item("optimizer's temporaries", states.step_temporaries, "one copy of the gradients (foreach)")
    return (
        Phase("load", tuple(held[:1])),
        Phase("forward end, loss", (*held, *carried, *exchanged, *whole[0], saved, loss)),
        Phase("first layer backward", (*held, *carried, *exchanged, *whole[1], saved, frozen, layer)),
        Phase("last layer backward", (*held, *exchanged, *whole[1], gradients, frozen, layer)),
        Phase("optimizer step", (*held, *exchanged, gradients, step)),
    )


def _carried(workload: Workload, strategy: Strategy, states: States, gradients: Item) -> Item:
    """Gradients of earlier micro-batches: FSDP1's `no_sync` keeps them whole until the last one reduces them."""
    if strategy.sharding == "fsdp1" and strategy.model_shards > 1 and workload.method == "full":
        return Item("gradients, whole", states.gradients * strategy.gradient_shards, "no_sync", "torch FSDP no_sync")
    return gradients


FROZEN_SOURCE = "torch FSDP1 _register_post_backward_reshard_only_hook: handles live to the end of the backward pass"


def held_items(states: States, workspace: int) -> list[Item]:
    items = [Item("weights", states.weights, "parameters x bytes / shards")]
    if states.adapters:
        items.append(Item("adapters", states.adapters, f"{states.trained:,} trained parameters x bytes"))
    if states.master_copies:
        items.append(Item("master weights", states.master_copies, "trained parameters x 4 B / shards", "DeepSpeed"))
    items.append(Item("optimizer states", states.optimizer, "two per trained parameter (AdamW) / shards"))
    items.append(Item("cuBLAS workspaces", workspace, "two handles: forward and backward threads"))
    return [item for item in items if item.bytes] or items


def gathered(
    shape: ModelShape, workload: Workload, weights: WeightSizes, strategy: Strategy
) -> tuple[list[Item], list[Item]]:
    """Parameters that are whole for a moment: at the end of the forward pass, and in a layer's backward pass."""
    size = element_bytes(workload.dtype)
    one_layer = max(weights.layers, default=0)
    root = weights.outside_layers
    if strategy.sharding == "fsdp1" and strategy.model_shards > 1:
        layers = one_layer if workload.method != "full" else 0
        if workload.autocast and workload.method == "full":
            layers = 2 * one_layer
        return (
            [Item("root unit, whole", root, "embedding, head, norms", "FSDP1 keeps the root from forward to backward")],
            [Item("root unit, whole", root, "embedding, head, norms"), Item("layer, whole", layers, "one FSDP unit")],
        )
    if strategy.sharding == "fsdp2" and strategy.model_shards > 1:
        reduce = (
            4 * max((layer.parameters for layer, _ in shape.counted_layers), default=0)
            if workload.method == "full"
            else 0
        )
        return (
            [Item("root unit, whole", root, "embedding, head, norms in the compute type")],
            [
                Item("root unit, whole", root, "embedding, head, norms in the compute type"),
                Item("layers, whole", 2 * one_layer, "current and prefetched"),
                Item(
                    "gradient of a layer, reduced", round(reduce + reduce / strategy.model_shards), "float32 in and out"
                ),
            ],
        )
    if strategy.sharding == "zero3" and strategy.model_shards > 1:
        largest = max(one_layer, weights.embedding, weights.head)
        live = min(weights.total, round(DEEPSPEED_LIVE_ELEMENTS * size))
        live_bytes = max(largest, min(live, round(DEEPSPEED_PREFETCH_ELEMENTS * size) + largest))
        formula = "largest unit + prefetch bucket (5e7 elements)"
        item = Item("parameters, whole", live_bytes, formula, "DeepSpeed ZeRO-3")
        return [item], [item]
    return [], []


def buckets(shape: ModelShape, workload: Workload, strategy: Strategy, states: States) -> list[Item]:
    """Buffers for the exchange of gradients."""
    if strategy.data_degree <= 1:
        return []
    size = element_bytes(workload.dtype if workload.method == "full" else workload.adapter_dtype)
    if strategy.sharding == "ddp":
        copy = round(states.trained * size) + DDP_FIRST_BUCKET_BYTES
        return [Item("DDP buckets", copy, "one copy of the gradients", "torch DDP without gradient_as_bucket_view")]
    if strategy.sharding.startswith("zero"):
        bucket = round(min(states.trained, DEEPSPEED_BUCKET_ELEMENTS) * size)
        return [Item("reduce buckets", 2 * bucket, "2 x min(trained, 5e8) elements (overlap_comm)", "DeepSpeed")]
    return []
