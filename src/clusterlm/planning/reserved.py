"""What torch's caching allocator reserves beyond what is allocated: a range, and the part that it cannot give back."""

from __future__ import annotations

from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.workload import Workload
from clusterlm.strategy import SHARDS_PARAMETERS, Strategy

LOAD = "load"
STEP = "optimizer step"
"""Its gradients and temporaries are few and large: they leave no holes."""
HOLES = 0.12
HOLES_SHARDED = 0.25
"""Share of what comes and goes within a phase that is lost in holes between live blocks. Fitted: fms-acceleration's
nvidia-smi figures, with fused loss 0.11 to 0.15 on one GPU, 0.15 to 0.4 where FSDP gathers and frees whole layers."""
HOLES_COMPILED = 0.05
HOLES_GENERATION = 0.05
HEADROOM = 1.1

NCCL_BYTES = {2: 544_000_000}
NCCL_BYTES_MORE = 688_000_000
"""Per communicator on A100, two GPUs and more. Source: NVIDIA/nccl issues 964 and 864."""


def unusable_bytes(phases: tuple[Phase, ...], workload: Workload, strategy: Strategy) -> int:
    """Holes at the phase that needs most with them, counted from the highest allocated bytes.

    Cached blocks that no live tensor shares are no loss: torch returns them before it fails.
    """
    share = HOLES_SHARDED if strategy.sharding in SHARDS_PARAMETERS and strategy.model_shards > 1 else HOLES
    share = HOLES_COMPILED if workload.software.compiled else share
    steady = steady_names(phases)
    allocated = max(phase.bytes for phase in phases)
    with_holes = (phase.bytes + share * moving_bytes(phase, steady) for phase in phases if phase.name != STEP)
    return round(max(0.0, max(with_holes, default=0.0) - allocated))


def reserved_high_bytes(phases: tuple[Phase, ...], workload: Workload) -> int:
    """Nothing that one phase used serves another: each item at its largest, and a tenth on top.

    Generation and compiled layers lay out the same buffers over and over.
    """
    if not workload.trains or workload.software.compiled:
        return round(HEADROOM * max(phase.bytes for phase in phases))
    largest: dict[str, int] = {}
    for phase in phases:
        for item in phase.items:
            largest[item.name] = max(largest.get(item.name, 0), item.bytes)
    return round(HEADROOM * sum(largest.values()))


def steady_names(phases: tuple[Phase, ...]) -> set[str]:
    """Items that every phase of a step holds; gradients too, which grow in place."""
    of_step = [{item.name for item in phase.items} for phase in phases if phase.name != LOAD]
    gradients = {item.name for phase in phases for item in phase.items if item.name.startswith("gradients")}
    return gradients | (set.intersection(*of_step) if of_step else set())


def moving_bytes(phase: Phase, steady: set[str]) -> int:
    return sum(item.bytes for item in phase.items if item.name not in steady)


def nccl(strategy: Strategy) -> tuple[Item, ...]:
    if strategy.gpus <= 1:
        return ()
    return (Item("NCCL buffers", NCCL_BYTES.get(strategy.gpus, NCCL_BYTES_MORE), "one communicator", "nccl#964, #864"),)
