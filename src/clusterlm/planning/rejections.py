"""Rejections: ways that cannot be, put together where one thing breaks them all, with the nearest way that can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterlm.planning.candidates import Candidate, Rejected


@dataclass(frozen=True)
class Rejection:
    """One strategy on one type of node."""

    nearest_miss: Rejected
    """Of those with this strategy and this lack the one that lacks least: in training the one on the most GPUs."""
    fewest_gpus: int
    most_gpus: int
    instead: Candidate | None
    """The nearest that fits; None where nothing does on these nodes."""


def rejections(rejected: Sequence[Rejected], ranked: Sequence[Candidate]) -> tuple[Rejection, ...]:
    """Of ways that differ in checkpointing alone the one that comes nearest; none where the other one fits."""
    fitting = {(one.place.node_name, one.way.strategy, one.case.strategy.gpus, one.way.copies) for one in ranked}
    nearest: dict[tuple[str, str, int, int | None, str | None], Rejected] = {}
    for one in sorted(rejected, key=lambda one: (not one.on_host, one.excess)):
        way = one.way
        if (one.place.node_name, way.strategy, way.gpus, way.copies) not in fitting:
            nearest.setdefault((one.place.node_name, way.strategy, way.gpus, way.copies, way.offload), one)
    groups: dict[tuple[str, str, str | None, bool, str], list[Rejected]] = {}
    for one in sorted(nearest.values(), key=lambda one: one.way.gpus):
        why = "" if one.case else one.item
        groups.setdefault((one.place.node_name, one.way.strategy, one.way.offload, one.on_host, why), []).append(one)
    together = (_together(group, ranked) for group in groups.values())
    return tuple(sorted(together, key=lambda one: (one.nearest_miss.place.node_name, one.most_gpus)))


def _together(group: Sequence[Rejected], ranked: Sequence[Candidate]) -> Rejection:
    miss = min(group, key=lambda one: (-one.way.gpus if one.way.trains else 0, one.excess, one.way.gpus))
    counts = [one.way.gpus for one in group]
    return Rejection(miss, min(counts), max(counts), _nearest(miss, ranked))


def _nearest(miss: Rejected, ranked: Sequence[Candidate]) -> Candidate | None:
    """On these nodes: the same strategy where it fits on other numbers of GPUs, else another; on the fewest GPUs."""
    here = [one for one in ranked if one.place.node_name == miss.place.node_name]
    same = [one for one in here if one.way.strategy == miss.way.strategy]
    return min(same or here, key=lambda one: one.case.strategy.gpus, default=None)
