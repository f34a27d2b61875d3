"""What cannot be run on a cluster, and why: one line for all that one thing breaks."""

from __future__ import annotations

import re

from clusterlm.planning.candidates import Rejected
from clusterlm.planning.planner import Plan
from clusterlm.planning.rejections import Rejection
from clusterlm.report.choice_words import gpus_of, way_not_possible, way_of
from clusterlm.report.plan import gib
from clusterlm.report.table import HIDDEN_AT_LEAST

MOST_LINES = 10
INDIVISIBLE = re.compile(r"(?P<what>.+) by (?P<cut>\d+)")
"""'8 key/value heads cannot be divided by 3'."""
TOO_MANY_STAGES = re.compile(r"(?P<cut>\d+) stages for (?P<layers>\d+) layers")
CUTS = ("tensor", "pipeline")


def what_cannot_be(plan: Plan, *, named: bool, whole: bool) -> str:
    """`named`: each line says which kind of GPU; `whole`: all lines."""
    groups: dict[tuple[str, ...], list[Rejection]] = {}
    for one in plan.rejected:
        groups.setdefault(_why(plan, one, named=named), []).append(one)
    lines = [_line(plan, why, group, named=named) for why, group in groups.items()]
    if not lines:
        return ""
    shown = lines if whole or len(lines) < MOST_LINES + HIDDEN_AT_LEAST else lines[:MOST_LINES]
    left = [f"{len(lines) - len(shown)} more: --all"] if len(lines) > len(shown) else []
    return "\n".join(["WHAT CANNOT BE", *shown, *left])


def _why(plan: Plan, rejection: Rejection, *, named: bool) -> tuple[str, ...]:
    """Rejections that agree in all of these are one line: a whole copy on one GPU, and on each of several."""
    miss, instead = rejection.nearest_miss, rejection.instead
    words = way_not_possible(miss, trains=plan.wishes.asked_task == "train")
    fits = ""
    if instead:
        on = gpus_of(instead.place, instead.case.strategy.gpus, named=named)
        fits = f"; {way_of(instead)} on {on} fits" if instead.case.strategy.gpus > 1 else f"; {on} fits"
    return miss.place.node_name, words, _why_not(miss), fits


def _refused_cut(miss: Rejected) -> re.Match[str] | None:
    """With `cut`, over how many GPUs the model itself cannot be cut, whatever their memory."""
    pattern = {"tensor": INDIVISIBLE, "pipeline": TOO_MANY_STAGES}.get(miss.way.strategy)
    return pattern.fullmatch(miss.item) if pattern and miss.case is None else None


def _line(plan: Plan, why: tuple[str, ...], group: list[Rejection], *, named: bool) -> str:
    """'DDP on 2 to 64 GCDs: 141.9 of 64.0 GiB, most of it weights; FSDP on 4 GCDs fits'."""
    _, words, why_not, fits = why
    place = group[0].nearest_miss.place
    kind = f" on {place.gpu.key}" if named else ""
    if cuts := sorted({int(found["cut"]) for one in group if (found := _refused_cut(one.nearest_miss))}):
        return f"{words} {_or(cuts)}{kind}: {why_not}{fits}"
    if cut := _cut(plan, group):
        return f"{words} {cut}{kind}, in any number of copies: {why_not}{fits}"
    fewest, most = min(one.fewest_gpus for one in group), max(one.most_gpus for one in group)
    sizes = gpus_of(place, most, named=named)
    if fewest != most:
        sizes = f"{fewest:,} to {sizes}"
    return f"{words} on {sizes}: {why_not}{fits}"


def _cut(plan: Plan, group: list[Rejection]) -> str:
    """'2', '2 to 4': over how many GPUs a copy is cut; nothing where that is not what stands against it."""
    miss = group[0].nearest_miss
    way, several = miss.way, max(one.most_gpus for one in group) > min(one.fewest_gpus for one in group)
    if way.trains or way.strategy not in CUTS or miss.case is None or miss.on_host or not several:
        return ""
    cut = way.one_copy.gpus
    for one in plan.candidates:
        if (one.place.node_name, one.way.strategy, one.way.one_copy.gpus) == (miss.place.node_name, way.strategy, cut):
            return ""
    fewest = min(one.fewest_gpus for one in group)
    return f"{fewest} to {cut}" if fewest < cut else str(cut)


def _or(numbers: list[int]) -> str:
    words = [f"{number:,}" for number in numbers]
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{words[0]} to {words[-1]}"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _why_not(miss: Rejected) -> str:
    if found := TOO_MANY_STAGES.fullmatch(miss.item):
        return f"more stages than the {found['layers']} layers"
    if found := _refused_cut(miss):
        return f"{found['what']} by that"
    if miss.case is None:
        return miss.item
    kind = "GiB of a node's RAM" if miss.on_host else "GiB"
    return f"{gib(miss.needed)} of {gib(miss.available)} {kind}, most of it {miss.item}"
