"""Candidates: every way to run the wish on a cluster, with its time and price; and why the others cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from clusterlm.errors import ClusterlmError
from clusterlm.model.shape import ModelShape
from clusterlm.planning.amount import Amount, amount_of, records_of_a_copy, rounds_of
from clusterlm.planning.case import Case
from clusterlm.planning.changes import first_that_fits
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.planning.duration import Duration, Speed, duration_of, is_too_short, speed_of
from clusterlm.planning.footprint import Footprint, Item
from clusterlm.planning.host import host_items
from clusterlm.planning.places import Place
from clusterlm.planning.room import available_bytes
from clusterlm.planning.settle import settle
from clusterlm.planning.verdict import PREDICTION_ERROR
from clusterlm.planning.ways import EFFORTS, Effort, Way, ways
from clusterlm.planning.wishes import Wishes
from clusterlm.units import show_seconds

GENERATION_BATCHES = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Sequences at once that are tried."""


@dataclass(frozen=True)
class Candidate:
    """One way at one place; it fits."""

    place: Place
    way: Way
    asked: Wishes
    """The user's."""
    case: Case
    amount: Amount
    duration: Duration
    tight: bool
    """It fits, but by less than a prediction may be wrong."""

    @cached_property
    def wishes(self) -> Wishes:
        """Those that settle to this case: every choice made."""
        chosen = self.way.asked(self.asked, self.place.node.gpus)
        batch = self.case.workload.batch
        return replace(chosen, micro_batch=batch) if self.case.workload.trains else replace(chosen, batch=batch)

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
    footprints: dict[tuple[Any, ...], Footprint] = field(default_factory=dict)
    sized: dict[tuple[Any, ...], Case | str] = field(default_factory=dict)
    """One copy of the model on one kind of GPU; the reason where it cannot be."""
    shared: dict[tuple[Any, ...], Case] = field(default_factory=dict)
    speeds: dict[tuple[Any, ...], Speed] = field(default_factory=dict)
    hosts: dict[tuple[Any, ...], tuple[Item, ...]] = field(default_factory=dict)

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
            counts = {place.partition_name: gpu_counts(place, wishes) for place in group}
            for way in ways(sorted(set().union(*counts.values())), group[0].node.gpus, wishes, effort):
                able = [place for place in group if way.gpus in counts[place.partition_name]]
                tried = self._tried(way, able, wishes)
                if isinstance(tried, Rejected):
                    rejected.append(tried)
                else:
                    found += tried
        return found, rejected

    def _tried(self, way: Way, able: list[Place], wishes: Wishes) -> list[Candidate] | Rejected:
        """At all of these places, whose nodes are equal."""
        place, copies = able[0], way.count_of_copies
        sized = self._sized(way.one_copy, place, wishes)
        if isinstance(sized, str):
            return Rejected(place, way, None, sized)
        lacking = self._lacking(sized if copies == 1 else sized.with_gpus(way.gpus), place, way)
        if lacking:
            return lacking
        free = not sized.workload.trains and not wishes.batch
        one = self._shared_out(sized, records_of_a_copy(copies, wishes.records)) if free else sized
        case = one if copies == 1 else one.with_gpus(way.gpus)
        amount, speed = amount_of(case, wishes), self._speed(one, place).of_copies(copies)
        long_enough = [one for one in able if not is_too_short(speed, one.partition.limit_seconds)]
        if not long_enough:
            limit = show_seconds(place.partition.limit_seconds or 0)
            why = f"loading takes {show_seconds(speed.load)} of the {limit} that a job may run"
            return Rejected(place, way, None, why)
        tight = not self._fits(sized, PREDICTION_ERROR)
        rounds = rounds_of(case, amount)
        durations = ((one, duration_of(speed, rounds, one.partition.limit_seconds)) for one in long_enough)
        return [Candidate(one, way, wishes, case, amount, duration, tight) for one, duration in durations]

    def _shared_out(self, one_copy: Case, records: int) -> Case:
        """In equal batches, and no more of them than the largest that fits needs."""
        batch = -(-records // -(-records // one_copy.workload.batch))
        key = (one_copy.workload, one_copy.strategy, one_copy.gpu.key, batch)
        if key not in self.shared:
            self.shared[key] = one_copy.with_batch(batch)
        return self.shared[key]

    def _speed(self, one_copy: Case, place: Place) -> Speed:
        """Of a copy that generates; of the whole in training."""
        key = (one_copy.workload, one_copy.strategy, place.gpu.key, place.links)
        if key not in self.speeds:
            self.speeds[key] = speed_of(one_copy, place)
        return self.speeds[key]

    def _sized(self, way: Way, place: Place, wishes: Wishes) -> Case | str:
        """With the largest batch that fits comfortably, else the smallest; or the reason why there is no such run."""
        key = (way, place.gpu.key, place.node.gpus, wishes)
        if key not in self.sized:
            try:
                case = settle(self.shape, place.gpu, way.asked(wishes, place.node.gpus))
                self.sized[key] = self._with_batch(case, _batches(case, wishes))
            except ClusterlmError as refusal:
                self.sized[key] = refusal.problem
        return self.sized[key]

    def _with_batch(self, case: Case, batches: list[int]) -> Case:
        def fits(batch: int) -> bool:
            return self._fits(case.with_batch(batch), PREDICTION_ERROR)

        largest, smallest = batches[0], batches[-1]
        least = case.with_batch(smallest)
        if not self._fits(least, PREDICTION_ERROR, without="gradients"):
            return least
        # A whole share at once accumulates no gradients, so that it may need less than a smaller batch.
        if case.workload.trains and fits(largest):
            return case.with_batch(largest)
        if fits(smallest):
            return case.with_batch(first_that_fits(batches[:-1], fits) or smallest)
        return min(case.with_batch(largest), least, key=lambda one: self.footprint(one).needed)

    def _lacking(self, case: Case, place: Place, way: Way) -> Rejected | None:
        found, available = self.footprint(case), available_bytes(case)
        if found.needed > available:
            return Rejected(place, way, case, found.deciding_item.name, found.needed, available)
        room = place.host_bytes(case.strategy.gpus)
        if room is None:
            return None
        items = self._host_items(case)
        needed = sum(item.bytes for item in items)
        if needed <= room:
            return None
        return Rejected(place, way, case, max(items, key=lambda item: item.bytes).name, needed, room, on_host=True)

    def _host_items(self, case: Case) -> tuple[Item, ...]:
        """Of one node, which copies that do not train fill alike."""
        strategy = case.strategy
        on_node = min(strategy.gpus, strategy.gpus_per_node)
        cut = (strategy.tensor_degree, strategy.pipeline_degree, on_node)
        key = (case.workload, strategy if case.workload.trains else cut)
        if key not in self.hosts:
            self.hosts[key] = host_items(case.shape, case.workload, strategy)
        return self.hosts[key]

    def _fits(self, case: Case, reserve: float, without: str | None = None) -> bool:
        """`without`: items that begin so are left out."""
        found = self.footprint(case)
        spared = sum(item.bytes for item in found.deciding_phase.items if without and item.name.startswith(without))
        return (found.needed - spared) * (1 + reserve) <= available_bytes(case)

    def footprint(self, case: Case) -> Footprint:
        """Where the model is cut decides, in training the number of GPUs, and of the card what its kernels need."""
        strategy, workload = case.strategy, case.workload
        gpus = strategy.gpus if workload.trains else 0
        cut = (strategy.tensor_degree, strategy.pipeline_degree, strategy.sharding, strategy.offload)
        key = (workload, gpus, *cut, cublas_bytes(case.gpu.compute_capability, 1, case.gpu.vendor))
        if key not in self.footprints:
            self.footprints[key] = case.on_gpu
        return self.footprints[key]


def _with_equal_nodes(where: Sequence[Place]) -> list[list[Place]]:
    groups: dict[str, list[Place]] = {}
    for place in where:
        groups.setdefault(place.node_name, []).append(place)
    return list(groups.values())


def gpu_counts(place: Place, wishes: Wishes) -> tuple[int, ...]:
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
    return [wishes.batch] if wishes.batch else list(GENERATION_BATCHES)
