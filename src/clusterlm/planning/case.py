"""Case: one model, what it is to do, how it is spread, and on which card: all that a footprint follows from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from clusterlm.cluster import Gpu
from clusterlm.model.shape import ModelShape
from clusterlm.planning.coefficients import VLLM_BLOCK_TOKENS
from clusterlm.planning.disk import disk_items
from clusterlm.planning.footprint import Footprint, Item, Phase
from clusterlm.planning.host import host_items
from clusterlm.planning.memory import footprint
from clusterlm.planning.network import network_items
from clusterlm.planning.rules import rules_of_thumb
from clusterlm.planning.serving import graphs, token_bytes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy


@dataclass(frozen=True)
class Case:
    """A model, what it does, how it is spread, and on which card."""

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

    def with_batch(self, batch: int) -> Case:
        """So many sequences at once on a GPU; in training the same global batch, whose share `batch` must divide."""
        if not self.workload.trains:
            return replace(self, workload=replace(self.workload, batch=batch))
        steps = self.workload.batch * self.accumulation_steps // batch
        workload = replace(self.workload, batch=batch, accumulation=steps > 1)
        return replace(self, workload=workload, accumulation_steps=steps)

    def with_gpus(self, gpus: int) -> Case:
        """More copies that do not train."""
        return replace(self, strategy=replace(self.strategy, gpus=gpus))

    @property
    def tokens_each(self) -> int:
        """Of a sequence when it is complete."""
        return self.workload.sequence_tokens + self.workload.new_tokens

    @property
    def weights_dtype(self) -> str:
        return "float32" if self.workload.autocast and self.workload.method == "full" else self.workload.dtype

    @property
    def compute_dtype(self) -> str:
        """What matrices are multiplied in: under autocast 16 bits, whatever the weights are."""
        half = "bfloat16" if self.gpu.bfloat16 else "float16"
        return half if self.workload.autocast and self.workload.dtype == "float32" else self.workload.dtype

    @property
    def one_copy(self) -> Strategy:
        """Copies of the model that do not train know nothing of each other."""
        strategy = self.strategy
        if self.workload.trains:
            return strategy
        return replace(strategy, gpus=strategy.tensor_degree * strategy.pipeline_degree)

    @cached_property
    def on_gpu(self) -> Footprint:
        """What one GPU holds; host, disk and network left out."""
        found = footprint(self.shape, self.workload, self.one_copy, self.gpu)
        if self.workload.software.engine == "vllm":
            return self._served(found)
        return _embedded(found) if self.workload.task == "embed" else found

    def _served(self, found: Footprint) -> Footprint:
        """vLLM lays the cache out in its own pool beside what its profile run saw; graphs come on top of its share."""
        workload = self.workload
        blocks = -(-self.tokens_each // VLLM_BLOCK_TOKENS) * workload.batch
        each = token_bytes(self.shape, workload, self.strategy)
        formula = f"{blocks:,} blocks x {VLLM_BLOCK_TOKENS} tokens x {each:,.0f} B"
        cache = Item("KV cache", round(blocks * VLLM_BLOCK_TOKENS * each), formula, "vLLM's paged attention")
        phases = (*found.phases, Phase("serving", (*found.deciding_phase.items, cache)))
        whole = phases[-1].bytes
        return replace(
            found, phases=phases, reserved_low=whole, reserved_high=whole, runtime=(graphs(self.shape),), holes=0
        )

    def footprint(self) -> Footprint:
        shape, workload, strategy = self.shape, self.workload, self.strategy
        return replace(
            self.on_gpu,
            host_per_node=host_items(shape, workload, strategy),
            disk=disk_items(shape, workload, strategy, self.keep_checkpoints, self.dataset_tokens),
            network=network_items(shape, workload, strategy, self.accumulation_steps),
            rules_of_thumb=rules_of_thumb(shape, workload, strategy),
        )


def _embedded(found: Footprint) -> Footprint:
    """One forward pass without a key/value cache (use_cache=False): as the prefill of a prompt, and then it is over."""
    load, prefill = found.phases[:2]
    phases = (load, Phase("forward pass", tuple(item for item in prefill.items if item.name != "KV cache")))
    whole = max(phase.bytes for phase in phases)
    shrunk = whole / found.allocated
    low, high, holes = (round(amount * shrunk) for amount in (found.reserved_low, found.reserved_high, found.holes))
    return replace(found, phases=phases, reserved_low=low, reserved_high=high, holes=holes)
