"""Verdict: does it fit on the card, what decides, how far from the limit, and which change would help."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.planning.case import Case
from clusterlm.planning.changes import Change, helping_changes, largest_batch
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.refusals import cautions
from clusterlm.planning.room import available_bytes, crowded, vllm_cache_pool
from clusterlm.planning.serving import CachePool
from clusterlm.planning.wishes import Wishes

PREDICTION_ERROR = 0.05
"""What the memory model promises (docs/concepts/memory.md)."""


@dataclass(frozen=True)
class Verdict:
    """Whether a case fits its card, and what follows."""

    case: Case
    footprint: Footprint
    fits: bool
    tight: bool
    """It fits, but by less than a prediction may be wrong."""
    changes: tuple[Change, ...]
    """Each makes it fit; the nearest first. None where it fits."""
    largest_batch: int | None
    """Sequences at once on one GPU that still fit; None where not even this case does."""
    cautions: tuple[str, ...]
    cache_pool: CachePool | None = None
    """vLLM's, on one GPU."""

    @property
    def available(self) -> int:
        return available_bytes(self.case)

    @property
    def margin(self) -> int:
        """Bytes left on the card; negative where they are missing."""
        return self.available - self.footprint.needed


def judge(case: Case, wishes: Wishes) -> Verdict:
    """`wishes` are those that `case` was settled from: the changes are found by settling others."""
    found = case.footprint()
    available = available_bytes(case)
    fits = found.needed <= available
    pool = vllm_cache_pool(case) if case.workload.software.engine == "vllm" else None
    return Verdict(
        case=case,
        footprint=found,
        fits=fits,
        tight=fits and found.needed * (1 + PREDICTION_ERROR) > available,
        changes=() if fits else helping_changes(case, wishes),
        largest_batch=(pool.sequences(case.tokens_each) if pool else largest_batch(case)) if fits else None,
        cautions=(*found.warnings, *cautions(case), *crowded(case)),
        cache_pool=pool,
    )
