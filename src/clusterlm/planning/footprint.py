"""Footprint: bytes on one GPU, phase by phase and item by item; the host's and the disk's beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Item:
    """One named amount, with the formula that a paper would print and where it is from."""

    name: str
    bytes: int
    formula: str = ""
    source: str = ""


@dataclass(frozen=True)
class Rule(Item):
    """A rule of thumb, as guides give it, and what it does not see."""

    misses: str = ""


@dataclass(frozen=True)
class Phase:
    """A moment of the run: what lives on the GPU then."""

    name: str
    items: tuple[Item, ...]

    @cached_property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def largest(self) -> Item:
        return max(self.items, key=lambda item: item.bytes)


@dataclass(frozen=True)
class Footprint:
    """Three numbers for one GPU: allocated (torch's own count), reserved (a range) and needed of the physical card."""

    phases: tuple[Phase, ...]
    reserved_low: int
    reserved_high: int
    runtime: tuple[Item, ...]
    holes: int = 0
    """Reserved bytes between live blocks that the allocator can neither use nor return."""
    allocated_all_gpus: int = 0
    """Sum over the GPUs of one copy of the model, where its layers are laid over several."""
    host_per_node: tuple[Item, ...] = ()
    disk: tuple[Item, ...] = ()
    network: tuple[Item, ...] = ()
    warnings: tuple[str, ...] = ()
    rules_of_thumb: tuple[Rule, ...] = ()

    @property
    def deciding_phase(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def deciding_item(self) -> Item:
        return self.deciding_phase.largest

    @property
    def allocated(self) -> int:
        """Highest torch.cuda.max_memory_allocated that the run will report on one GPU."""
        return self.deciding_phase.bytes

    @property
    def runtime_bytes(self) -> int:
        return sum(item.bytes for item in self.runtime)

    @property
    def needed(self) -> int:
        """Bytes that the physical card must have: allocated, holes, context and communicators.

        More may be reserved while there is room: torch returns cached blocks before it fails.
        """
        return self.allocated + self.holes + self.runtime_bytes
