"""Ways: how GPUs can share the work of a wish, by the names of the flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from clusterlm.planning.amount import USUAL_RECORDS
from clusterlm.planning.settle import usual_cut
from clusterlm.planning.wishes import Wishes

BATCH_SEQUENCES = 64
"""Of one optimizer step, at least, where the user names no batch."""
MOST_TRAINING_GPUS = 1024
TRAINING = ("ddp", "fsdp", "zero1", "zero2", "zero3")
OFFLOADS = {"fsdp": "cpu", "zero2": "optimizer-cpu", "zero3": "cpu"}
"""Where states go that leave the GPUs."""
Effort = Literal["usual", "larger batch", "offload"]
EFFORTS: tuple[Effort, ...] = ("usual", "larger batch", "offload")
"""Of training: the usual batch, then a micro-batch for each of more GPUs than that serves, then states on the host."""

MOST_NODES_OF_A_COPY = 16
LEAST_RECORDS_OF_A_COPY = 32
"""With fewer it would load longer than it works, where nobody asked for so many copies."""


@dataclass(frozen=True)
class Way:
    """How GPUs share the work, by the names of the flags."""

    gpus: int
    strategy: str
    trains: bool = False
    copies: int | None = None
    offload: str | None = None
    gradient_checkpointing: bool | None = None

    @property
    def count_of_copies(self) -> int:
        """Of a model that does not train; what trains is one."""
        return 1 if self.trains else self.copies or (self.gpus if self.strategy == "ddp" else 1)

    @property
    def one_copy(self) -> Way:
        """All that memory depends on: copies that do not train know nothing of each other."""
        if self.count_of_copies == 1:
            return self
        each = self.gpus // self.count_of_copies
        single = each == 1
        return replace(self, gpus=each, strategy="single" if single else self.strategy, copies=None if single else 1)

    def asked(self, wishes: Wishes, gpus_per_node: int) -> Wishes:
        """`wishes`, with all that this way decides."""
        return replace(
            wishes,
            gpus=self.gpus,
            gpus_per_node=gpus_per_node,
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
        if wishes.batch or not self.trains:
            return wishes.batch
        at_once = self.data_degree * (wishes.micro_batch or 1)
        return -(-step_sequences(wishes) // at_once) * at_once


def step_sequences(wishes: Wishes) -> int:
    """Of one optimizer step, the same for all ways: as asked, else the micro-batch times a power of two."""
    micro = wishes.micro_batch or 1
    return wishes.batch or micro << (-(-BATCH_SEQUENCES // micro) - 1).bit_length()


def ways(gpu_counts: list[int], node_gpus: int, wishes: Wishes, effort: Effort = "usual") -> Iterator[Way]:
    """Those that take this effort, and not those that take less."""
    for gpus in gpu_counts:
        if wishes.asked_task != "train":
            yield from _copies(gpus, node_gpus, wishes)
        elif effort == "offload":
            if wishes.offload is None and _shares_batch(gpus, wishes):
                able = (way for way in _training(gpus, wishes) if way.strategy in OFFLOADS)
                yield from (replace(way, offload=OFFLOADS[way.strategy]) for way in able)
        elif _shares_batch(gpus, wishes) if effort == "usual" else _sets_batch(gpus, wishes):
            yield from _training(gpus, wishes)


def _shares_batch(gpus: int, wishes: Wishes) -> bool:
    """Whether the batch gives all GPUs alike; a number of GPUs that was asked for sets the batch."""
    pinned = wishes.gpus or wishes.nodes or wishes.strategy in ("tensor", "pipeline")
    return bool(pinned) or step_sequences(wishes) % (gpus * (wishes.micro_batch or 1)) == 0


def _sets_batch(gpus: int, wishes: Wishes) -> bool:
    """More GPUs than the usual step has micro-batches, where nobody asked for a batch."""
    free = wishes.batch is None and not _shares_batch(gpus, wishes)
    return free and gpus <= MOST_TRAINING_GPUS and gpus * (wishes.micro_batch or 1) > step_sequences(wishes)


def _training(gpus: int, wishes: Wishes) -> Iterator[Way]:
    usual = TRAINING if gpus > 1 else ("single",)
    settings = (True, False) if wishes.gradient_checkpointing is None else (wishes.gradient_checkpointing,)
    for strategy in (wishes.strategy,) if wishes.strategy else usual:
        if (strategy == "single") == (gpus == 1) or wishes.gpus or wishes.nodes:
            for checkpointing in settings:
                yield Way(gpus, strategy, trains=True, gradient_checkpointing=checkpointing)


def _copies(gpus: int, node_gpus: int, wishes: Wishes) -> Iterator[Way]:
    """Whole copies of the model, each cut over some of the GPUs."""
    cut = wishes.strategy if wishes.strategy in ("tensor", "pipeline") else usual_cut(wishes)
    records, pinned = wishes.records or USUAL_RECORDS, wishes.copies or wishes.gpus or wishes.nodes
    most = records if pinned else max(1, records // LEAST_RECORDS_OF_A_COPY)
    for each in _gpus_of_a_copy(gpus, node_gpus, wishes):
        copies = gpus // each
        strategy = cut if each > 1 else "single" if gpus == 1 else "ddp"
        asked_for = wishes.strategy in (None, strategy) and wishes.copies in (None, copies)
        if asked_for and copies <= most:
            yield Way(gpus, strategy, copies=copies if each > 1 else None)


def _gpus_of_a_copy(gpus: int, node_gpus: int, wishes: Wishes) -> Iterator[int]:
    """Equal parts of what is on a node; whole nodes for an engine that reaches beyond one."""
    on_node = min(gpus, node_gpus)
    yield from (each for each in range(1, on_node + 1) if on_node % each == 0)
    if wishes.engine == "vllm":
        nodes = gpus // node_gpus
        yield from (node_gpus * count for count in range(2, min(nodes, MOST_NODES_OF_A_COPY) + 1) if nodes % count == 0)
