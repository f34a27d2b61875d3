"""Candidates: every way to run the wish on a cluster, with its time and price; and why the others cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from clusterlm.errors import ClusterlmError
from clusterlm.model.shape import ModelShape
from clusterlm.planning.amount import Amount, amount_of
from clusterlm.planning.case import Case
from clusterlm.planning.changes import first_that_fits
from clusterlm.planning.duration import Duration, duration_of, speed_of
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.host import host_items
from clusterlm.planning.places import Place
from clusterlm.planning.room import available_bytes
from clusterlm.planning.settle import settle
from clusterlm.planning.verdict import PREDICTION_ERROR
from clusterlm.planning.ways import EFFORTS, Effort, Way, ways
from clusterlm.planning.wishes import Wishes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

LARGEST_GENERATION_BATCH = 256


@dataclass(frozen=True)
class Candidate:
    """One way at one place; it fits."""

    place: Place
    wishes: Wishes
    """That settle to this case, every choice made."""
    case: Case
    amount: Amount
    duration: Duration
    tight: bool
    """It fits, but by less than a prediction may be wrong."""

    @cached_property
    def allocated_gpus(self) -> int:
        return self.place.allocated_gpus(self.case.strategy.gpus)

    @property
    def idle_gpus(self) -> int:
        return self.allocated_gpus - self.case.strategy.gpus

    @property
    def nodes(self) -> int:
        return self.place.nodes(self.case.strategy.gpus)

    @cached_property
    def gpu_hours(self) -> float:
        return self.allocated_gpus * self.duration.middle / 3600

    @property
    def billing_units(self) -> float | None:
        """None where the site's price is not known."""
        each = self.place.node.billing_units_per_gpu_hour
        return None if each is None else each * self.gpu_hours

    @property
    def needed(self) -> int:
        """Bytes of one GPU."""
        return self.case.on_gpu.needed


@dataclass(frozen=True)
class Rejected:
    """One way at one place that cannot be."""

    place: Place
    way: Way
    case: Case | None
    """As small as the wish allows; None where no such run is possible, whatever the size."""
    item: str
    """What breaks it: the largest item of memory, or the reason in words."""
    needed: int = 0
    available: int = 0
    on_host: bool = False
    """It is the RAM of a node that is missing."""

    @property
    def excess(self) -> float:
        """What it needs over what there is; infinite where it is not a matter of size."""
        return self.needed / self.available if self.available else float("inf")


@dataclass
class Search:
    """All ways of one model; footprints that were counted are kept, so that the next cluster costs less."""

    shape: ModelShape
    footprints: dict[tuple[Workload, Strategy, str], Footprint] = field(default_factory=dict)

    def run(
        self, where: Sequence[Place], wishes: Wishes, efforts: Sequence[Effort] = EFFORTS
    ) -> tuple[list[Candidate], list[Rejected]]:
        """Each effort is made only where the one before it found no way."""
        rejected: list[Rejected] = []
        for effort in efforts if wishes.asked_task == "train" else EFFORTS[:1]:
            found, refused = self._all(where, wishes, effort)
            rejected += refused
            if found:
                return found, rejected
        return [], rejected

    def _all(self, where: Sequence[Place], wishes: Wishes, effort: Effort) -> tuple[list[Candidate], list[Rejected]]:
        found: list[Candidate] = []
        rejected: list[Rejected] = []
        for group in _with_equal_nodes(where):
            counts = sorted({count for place in group for count in _gpu_counts(place, wishes)})
            for way in ways(counts, group[0].node.gpus, wishes, effort):
                able = [place for place in group if place.allows(way.gpus)]
                tried = self._tried(way, able, wishes)
                if isinstance(tried, Rejected):
                    rejected.append(tried)
                else:
                    found += tried
        return found, rejected

    def _tried(self, way: Way, able: list[Place], wishes: Wishes) -> list[Candidate] | Rejected:
        """At all of these places, whose nodes are equal."""
        asked = way.asked(wishes, able[0])
        try:
            case = settle(self.shape, able[0].gpu, asked)
        except ClusterlmError as refusal:
            return Rejected(able[0], way, None, refusal.problem)
        sized = self._sized(case, wishes)
        return self._lacking(sized, able[0], way) or self._candidates(sized, asked, able, wishes)

    def _sized(self, case: Case, wishes: Wishes) -> Case:
        """With the largest batch that fits comfortably; else with the smallest there is, which may not fit at all."""
        sizes = [case.with_batch(batch) for batch in _batches(case, wishes)]
        largest, smallest = sizes[0], sizes[-1]
        # The largest accumulates no gradients, so that it may need less than the others.
        if self._fits(largest, PREDICTION_ERROR):
            return largest
        if self._fits(smallest, PREDICTION_ERROR):
            return first_that_fits(sizes[1:-1], lambda one: self._fits(one, PREDICTION_ERROR)) or smallest
        return min((largest, smallest), key=lambda one: self.footprint(one).needed)

    def _lacking(self, case: Case, place: Place, way: Way) -> Rejected | None:
        found, available = self.footprint(case), available_bytes(case)
        if found.needed > available:
            return Rejected(place, way, case, found.deciding_item.name, found.needed, available)
        room = place.host_bytes(case.strategy.gpus)
        items = host_items(case.shape, case.workload, case.strategy)
        needed = sum(item.bytes for item in items)
        if room is not None and needed > room:
            largest = max(items, key=lambda item: item.bytes)
            return Rejected(place, way, case, largest.name, needed, room, on_host=True)
        return None

    def _candidates(self, case: Case, asked: Wishes, able: list[Place], wishes: Wishes) -> list[Candidate]:
        batch = case.workload.batch
        chosen = replace(asked, micro_batch=batch) if case.workload.trains else replace(asked, batch=batch)
        amount = amount_of(case, wishes)
        speed = speed_of(case, able[0])
        tight = not self._fits(case, PREDICTION_ERROR)
        return [
            Candidate(place, chosen, case, amount, duration_of(speed, amount, place.partition.limit_seconds), tight)
            for place in able
        ]

    def _fits(self, case: Case, reserve: float) -> bool:
        return self.footprint(case).needed * (1 + reserve) <= available_bytes(case)

    def footprint(self, case: Case) -> Footprint:
        """Of copies that do not train the GPUs of one decide."""
        key = (case.workload, case.one_copy, case.gpu.key)
        if key not in self.footprints:
            self.footprints[key] = case.on_gpu
        return self.footprints[key]


def _with_equal_nodes(where: Sequence[Place]) -> list[list[Place]]:
    groups: dict[str, list[Place]] = {}
    for place in where:
        groups.setdefault(place.node_name, []).append(place)
    return list(groups.values())


def _gpu_counts(place: Place, wishes: Wishes) -> tuple[int, ...]:
    if wishes.gpus:
        return (wishes.gpus,) if place.allows(wishes.gpus) else ()
    if wishes.nodes:
        return (wishes.nodes * place.node.gpus,)
    return place.gpu_counts


def _batches(case: Case, wishes: Wishes) -> list[int]:
    """Sequences at once on a GPU that may be tried, the most first."""
    if case.workload.trains:
        whole = case.workload.batch * case.accumulation_steps
        return [wishes.micro_batch] if wishes.micro_batch else [n for n in range(whole, 0, -1) if whole % n == 0]
    if wishes.batch:
        return [wishes.batch]
    most = LARGEST_GENERATION_BATCH
    if wishes.records:
        most = min(most, max(1, wishes.records // case.strategy.data_degree))
    return [1 << power for power in reversed(range(most.bit_length()))]
