"""Disk: the weights, the checkpoints that are kept and the one being written, the tokens of the data set."""

from __future__ import annotations

from clusterlm.model.shape import ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.footprint import Item
from clusterlm.planning.host import DEEPSPEED_STATES
from clusterlm.planning.stored import checkpoint_bytes, published_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

TOKEN_BYTES = 5
TOKEN_SOURCE = "datasets writes input_ids as int32 and attention_mask as int8"
CHECKPOINT_SOURCE = "transformers' Trainer deletes the oldest checkpoint only after the new one is written"
NVME_SOURCE = "DeepSpeed ZeRO-Infinity: parameters and optimizer states in files of each node"


def disk_items(
    shape: ModelShape, workload: Workload, strategy: Strategy, keep_checkpoints: int, dataset_tokens: int | None
) -> tuple[Item, ...]:
    weights = published_bytes(shape)
    items = [Item("weights as published", weights, f"{shape.parameters:,} parameters as {_stored_as(shape)}")]
    if not workload.trains:
        return tuple(items)
    model, optimizer = checkpoint_bytes(shape, workload, strategy)
    trained = "adapters" if workload.method != "full" else "weights"
    items += [
        Item(
            "checkpoints",
            (keep_checkpoints + 1) * (model + optimizer),
            f"({keep_checkpoints} kept + 1 being written) x ({model:,} B {trained} + {optimizer:,} B optimizer)",
            CHECKPOINT_SOURCE,
        ),
        Item(f"result: {trained}", model, f"{trained_parameters(shape, workload):,} trained parameters"),
    ]
    if dataset_tokens:
        size = dataset_tokens * TOKEN_BYTES
        items.append(Item("data set as tokens", size, f"{dataset_tokens:,} tokens x {TOKEN_BYTES} B", TOKEN_SOURCE))
    if strategy.offload == "nvme":
        each, count = DEEPSPEED_STATES["cpu"], trained_parameters(shape, workload)
        offloaded = round(count * each / strategy.nodes)
        formula = f"{count:,} trained x {each} B / {strategy.nodes}"
        items.append(Item("offloaded states, on each node", offloaded, formula, NVME_SOURCE))
    return tuple(items)


def _stored_as(shape: ModelShape) -> str:
    return f"{shape.quantisation.method}, {shape.quantisation.bits} bits" if shape.quantisation else shape.dtype
