"""The planner: model x wishes x cluster -> all ways ranked, the best first, and why the others cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from clusterlm.cluster import Cluster
from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.planning.candidates import Candidate, Rejected, Search, gpu_counts
from clusterlm.planning.places import Place, places
from clusterlm.planning.rejections import Rejection, rejections
from clusterlm.planning.remedies import Remedy, remedies
from clusterlm.planning.settle import settle
from clusterlm.planning.ways import step_sequences
from clusterlm.planning.wishes import Wishes, said

EQUAL = 0.02
"""Prices and times that differ by less are equal: the simpler way goes first."""
SIMPLEST_FIRST = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3", "tensor", "pipeline")
FEW_JOBS = 10
PINS = ("gpu", "partition", "nodes", "gpus", "strategy", "copies", "micro_batch", "gradient_checkpointing", "offload")
"""Wishes that the planner would decide itself."""


@dataclass(frozen=True)
class Plan:
    """What the run commands take: `best` has the settings, the place and the time to ask for."""

    cluster: Cluster
    wishes: Wishes
    candidates: tuple[Candidate, ...]
    """The best first; empty where nothing fits."""
    rejected: tuple[Rejection, ...]
    unpinned: Candidate | None
    """The best where the user's own choices are left out and it is a better one."""
    closest: Rejected | None
    """Where nothing fits: what needs least beyond what there is."""
    search: Search = field(repr=False, compare=False)
    places: tuple[Place, ...] = field(repr=False, compare=False)

    @cached_property
    def remedies(self) -> tuple[Remedy, ...]:
        """Where nothing fits: other wishes that would, each planned when they are first asked for."""
        return remedies(self.search, self.places, self.wishes, self.closest) if self.closest else ()

    @property
    def best(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None

    @property
    def prefer(self) -> str:
        return self.wishes.prefer or "cheapest"


def plan(search: Search, cluster: Cluster, wishes: Wishes) -> Plan:
    """UsageError where no such run is possible at all on this cluster; one that needs too much memory is possible."""
    _refuse_at_once(wishes)
    where = places(cluster, wishes)
    candidates, rejected = search.run(where, wishes)
    if not candidates and all(one.case is None for one in rejected):
        raise _impossible(search, cluster, wishes, rejected)
    ranked = sorted(candidates, key=ranking(wishes.prefer or "cheapest", candidates))
    together = rejections(rejected, ranked)
    return Plan(
        cluster=cluster,
        wishes=wishes,
        candidates=tuple(ranked),
        rejected=together,
        unpinned=_better_without_pins(search, cluster, wishes, ranked),
        closest=None if candidates else _closest(together),
        search=search,
        places=tuple(where),
    )


def _refuse_at_once(wishes: Wishes) -> None:
    if wishes.gpus_per_node:
        hint = "leave it out: the cluster's profile says how many GPUs a node has"
        raise UsageError("belongs to --gpu without --on", where="--gpus-per-node", hint=hint)
    batch, micro = wishes.batch, wishes.micro_batch
    if batch and micro and batch % micro:
        pair = f"{said('batch', batch)} and {said('micro_batch', micro)}"
        near = -(-batch // micro) * micro
        raise UsageError(f"contradict each other: {batch} is no multiple", where=pair, hint=said("batch", near))


def ranking(prefer: str, candidates: list[Candidate]) -> Callable[[Candidate], tuple[Any, ...]]:
    """Comfortable before tight, one job before a chain, short chains before long ones; then what was preferred; then
    the simpler way.

    cheapest: billing units, or GPU-hours where a price is not known; of equal prices the fewest nodes: they wait less.
    fastest: the time of the run. soonest: the fewest nodes, then those kept for short jobs, then the time of the run;
    no queue is asked.
    """
    in_units = priced(candidates)
    order = list(candidates[0].place.cluster.partitions) if candidates else []

    def price(one: Candidate) -> float:
        return one.billing_units if in_units and one.billing_units is not None else one.gpu_hours

    def key(one: Candidate) -> tuple[Any, ...]:
        seconds = one.duration.middle
        wanted: dict[str, tuple[float, ...]] = {
            "cheapest": (_step(price(one)), one.nodes, _step(seconds)),
            "fastest": (_step(seconds), _step(price(one))),
            "soonest": (one.nodes, not is_short(one), _step(seconds), _step(price(one))),
        }
        simplicity = SIMPLEST_FIRST.index(one.way.strategy)
        offloads = one.case.strategy.offload != "none"
        simpler = (one.case.strategy.gpus, offloads, simplicity, price(one), seconds)
        return (one.tight, _length(one.duration.jobs), *wanted[prefer], *simpler, order.index(one.place.partition_name))

    return key


def priced(candidates: Sequence[Candidate]) -> bool:
    """Whether they can be compared in the site's units; else in GPU-hours."""
    return all(one.billing_units is not None for one in candidates)


def _length(jobs: int) -> int:
    """One job, then a chain of a few, then the shorter of long ones: years of a low price help nobody."""
    return jobs if jobs > FEW_JOBS else int(jobs > 1)


def _step(amount: float) -> int:
    """Equal for amounts that differ by less than EQUAL, but for those at the edge of a step."""
    return round(math.log(max(amount, 1e-9)) / math.log(1 + EQUAL))


def is_short(one: Candidate) -> bool:
    """Short enough for nodes that the site keeps for short jobs."""
    hours = one.place.cluster.request.short_job_hours
    return hours is not None and one.duration.asked <= hours * 3600


def pinned(wishes: Wishes) -> tuple[str, ...]:
    return tuple(name for name in PINS if getattr(wishes, name) is not None)


def _better_without_pins(search: Search, cluster: Cluster, wishes: Wishes, ranked: list[Candidate]) -> Candidate | None:
    """What the user's own choices cost is the difference to it."""
    if not pinned(wishes):
        return None
    freed = dict.fromkeys(pinned(wishes))
    if any(node.gpu == "any" for node in cluster.nodes.values()):
        freed.pop("gpu", None)
    free = replace(wishes, **freed)
    candidates, _ = search.run(places(cluster, free), free)
    if not candidates:
        return None
    key = ranking(wishes.prefer or "cheapest", [*candidates, *ranked])
    best = min(candidates, key=key)
    return best if not ranked or key(best) < key(ranked[0]) else None


def _impossible(search: Search, cluster: Cluster, wishes: Wishes, rejected: list[Rejected]) -> ClusterlmError:
    """No way was possible, whatever its size: the pair of choices that leaves none, or what a way was refused for."""
    names = pinned(wishes)
    pairs = [(first, second) for index, first in enumerate(names) for second in names[index + 1 :]]
    for chosen in (*((name,) for name in names), *pairs):
        freed = {name: None for name in names if name not in chosen and name != "gpu"}
        alone = replace(wishes, **freed)
        where = places(cluster, alone)
        candidates, others = search.run(where, alone)
        if not candidates and all(one.case is None for one in others):
            refusal = _refusal(search, where, alone)
            return _contradiction(alone, chosen, [*others, *rejected], refusal, _counts(where, alone))
    where = places(cluster, wishes)
    return _contradiction(wishes, (), rejected, _refusal(search, where, wishes), _counts(where, wishes))


def _counts(where: list[Place], wishes: Wishes) -> list[int]:
    return sorted({count for place in where for count in gpu_counts(place, wishes)})


def _refusal(search: Search, where: list[Place], wishes: Wishes) -> ClusterlmError | None:
    """What settling says of the smallest such job: it knows the reason, and the way out."""
    least = 1 if wishes.strategy in (None, "single") else 2
    for place in where:
        counts = (count for count in gpu_counts(place, wishes) if count >= least or wishes.gpus)
        if fewest := next(counts, None):
            try:
                settle(search.shape, place.gpu, replace(wishes, gpus=fewest, gpus_per_node=place.node.gpus))
            except ClusterlmError as refusal:
                return refusal
    return None


def _contradiction(
    wishes: Wishes,
    names: tuple[str, ...],
    rejected: list[Rejected],
    refusal: ClusterlmError | None,
    counts: list[int],
) -> ClusterlmError:
    if refusal and len(names) < 2:
        return refusal
    where = " and ".join(said(name, getattr(wishes, name)) for name in names) or None
    if refusal:
        # `--strategy fsdp` begins the sentence; `--copies` alone says where, and the problem is one.
        begins = refusal.where and " " in refusal.where
        why = f"{refusal.where} {refusal.problem}" if begins else refusal.problem
        return UsageError(f"contradict each other: {why}", where=where, hint=refusal.hint)
    if rejected:
        return UsageError(rejected[0].item, where=where, hint="leave one of them out" if len(names) > 1 else None)
    return _no_way(wishes, where, counts)


def _no_way(wishes: Wishes, where: str | None, counts: list[int]) -> UsageError:
    """None of the numbers of GPUs that a job may have suits the wishes."""
    if not counts:
        return UsageError("no partition gives such a job any GPUs", where=where, hint="clusterlm clusters show NAME")
    sizes = ", ".join(f"{count:,}" for count in counts[:8]) + (" ..." if len(counts) > 8 else "")
    if wishes.asked_task == "train" and (wishes.batch or wishes.micro_batch):
        alike = f"{step_sequences(wishes)} sequences in micro-batches of {wishes.micro_batch or 1} for each alike"
        hint = "another --batch or --micro-batch"
    elif wishes.records or wishes.copies:
        alike, hint = "so many copies with a record for each", "fewer --copies, or leave --copies and --strategy out"
    else:
        alike, hint = f"what {said('strategy', wishes.strategy)} needs", "another --strategy, or leave it out"
    gpus = "1 GPU" if counts == [1] else f"{sizes} GPUs"
    return UsageError(f"a job here may have {gpus}: that does not give {alike}", where=where, hint=hint)


def _closest(together: tuple[Rejection, ...]) -> Rejected:
    """What lacks least, of each strategy with as many GPUs as there are."""
    misses = [one.nearest_miss for one in together if one.nearest_miss.case]
    last = {(one.place.node_name, one.way.strategy): one for one in misses}
    return min(last.values(), key=lambda one: one.excess)
