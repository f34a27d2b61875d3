"""Ways: how GPUs can share the work of a wish, by the names of the flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from clusterlm.planning.places import Place
from clusterlm.planning.settle import usual_cut
from clusterlm.planning.wishes import Wishes

BATCH_SEQUENCES = 64
"""Of one optimizer step where the user names no batch: it must be the same for all ways that are compared."""
TRAINING = ("ddp", "fsdp", "zero1", "zero2", "zero3")
OFFLOADS = {"fsdp": "cpu", "zero2": "optimizer-cpu", "zero3": "cpu"}
"""Tried where the GPUs alone hold none of the ways."""

MOST_NODES_OF_A_COPY = 16


@dataclass(frozen=True)
class Way:
    gpus: int
    strategy: str
    copies: int | None = None
    offload: str | None = None
    gradient_checkpointing: bool | None = None

    def asked(self, wishes: Wishes, place: Place) -> Wishes:
        """`wishes`, with all that this way decides."""
        return replace(
            wishes,
            gpus=self.gpus,
            gpus_per_node=place.node.gpus,
            strategy=self.strategy,
            copies=self.copies,
            offload=self.offload or wishes.offload,
            gradient_checkpointing=self.gradient_checkpointing,
            batch=self._batch(wishes),
        )

    @property
    def data_degree(self) -> int:
        """In training."""
        return 1 if self.strategy in ("tensor", "pipeline") else self.gpus

    def _batch(self, wishes: Wishes) -> int | None:
        if wishes.batch or wishes.asked_task != "train":
            return wishes.batch
        at_once = self.data_degree * (wishes.micro_batch or 1)
        return -(-BATCH_SEQUENCES // at_once) * at_once


def ways(gpu_counts: list[int], node_gpus: int, wishes: Wishes, *, offload: bool = False) -> Iterator[Way]:
    """`offload`: those alone whose states leave the GPUs."""
    for gpus in gpu_counts:
        if wishes.asked_task != "train":
            yield from _copies(gpus, node_gpus, wishes)
        elif offload:
            yield from (
                replace(way, offload=OFFLOADS[way.strategy])
                for way in _training(gpus, wishes)
                if way.strategy in OFFLOADS
            )
        else:
            yield from _training(gpus, wishes)


def _training(gpus: int, wishes: Wishes) -> Iterator[Way]:
    pinned = wishes.gpus or wishes.nodes
    if not pinned and (wishes.batch or BATCH_SEQUENCES) % (gpus * (wishes.micro_batch or 1)):
        return
    usual = TRAINING if gpus > 1 else ("single",)
    settings = (True, False) if wishes.gradient_checkpointing is None else (wishes.gradient_checkpointing,)
    for strategy in (wishes.strategy,) if wishes.strategy else usual:
        if (strategy == "single") == (gpus == 1) or pinned:
            for checkpointing in settings:
                yield Way(gpus, strategy, gradient_checkpointing=checkpointing)


def _copies(gpus: int, node_gpus: int, wishes: Wishes) -> Iterator[Way]:
    """Whole copies of the model, each cut over some of the GPUs."""
    cut = wishes.strategy if wishes.strategy in ("tensor", "pipeline") else usual_cut(wishes)
    for each in _gpus_of_a_copy(gpus, node_gpus, wishes):
        copies = gpus // each
        strategy = cut if each > 1 else "single" if gpus == 1 else "ddp"
        asked_for = wishes.strategy in (None, strategy) and wishes.copies in (None, copies)
        if asked_for and copies <= (wishes.records or copies):
            yield Way(gpus, strategy, copies if each > 1 and copies > 1 else None)


def _gpus_of_a_copy(gpus: int, node_gpus: int, wishes: Wishes) -> Iterator[int]:
    """Equal parts of what is on a node; whole nodes for an engine that reaches beyond one."""
    on_node = min(gpus, node_gpus)
    yield from (each for each in range(1, on_node + 1) if on_node % each == 0)
    if wishes.engine == "vllm":
        nodes = gpus // node_gpus
        yield from (node_gpus * count for count in range(2, min(nodes, MOST_NODES_OF_A_COPY) + 1) if nodes % count == 0)
