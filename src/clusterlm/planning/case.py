"""Case: one model, what it is to do, how it is spread, and on which card: all that a footprint follows from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clusterlm.cluster import Gpu
from clusterlm.model.shape import ModelShape
from clusterlm.planning.disk import disk_items
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.host import host_items
from clusterlm.planning.memory import footprint
from clusterlm.planning.network import network_items
from clusterlm.planning.rules import rules_of_thumb
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy


@dataclass(frozen=True)
class Case:
    shape: ModelShape
    workload: Workload
    strategy: Strategy
    gpu: Gpu
    accumulation_steps: int = 1
    """Micro-batches of each GPU before one optimizer step."""
    keep_checkpoints: int = 2
    dataset_tokens: int | None = None

    @property
    def global_batch(self) -> int:
        return self.workload.batch * self.strategy.data_degree * self.accumulation_steps

    def on_gpu(self) -> Footprint:
        """What one GPU holds; host, disk and network left out."""
        return footprint(self.shape, self.workload, self.strategy, self.gpu)

    def footprint(self) -> Footprint:
        shape, workload, strategy = self.shape, self.workload, self.strategy
        return replace(
            self.on_gpu(),
            host_per_node=host_items(shape, workload, strategy),
            disk=disk_items(shape, workload, strategy, self.keep_checkpoints, self.dataset_tokens),
            network=network_items(shape, workload, strategy, self.accumulation_steps),
            rules_of_thumb=rules_of_thumb(shape, workload, strategy),
        )
