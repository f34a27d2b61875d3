"""The ways that fit as a table: one row for each that differs in more than checkpointing or the partition's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.room import available_bytes
from clusterlm.report.choice_words import digits, interval, way_of
from clusterlm.report.plan import gib
from clusterlm.report.table import HIDDEN_AT_LEAST, aligned

MOST_ROWS = 8
WIDEST_PARTITIONS = 20
COLUMNS = ("WAY", "GPUS", "NODES", "KIND", "PARTITION", "GIB", "BATCH", "CKPT", "TIME", "HOURS", "PRICE", "")
"""CKPT: gradient checkpointing; HOURS: of all GPUs; PRICE: in the site's own units; the last holds remarks."""
NUMBERS = ("GPUS", "NODES", "HOURS", "PRICE")


@dataclass(frozen=True)
class Row:
    """One line of the table of ways."""

    candidate: Candidate
    partitions: tuple[str, ...]
    """Those that differ in nothing that a row shows."""


def table_of_ways(plan: Plan, *, whole: bool) -> str:
    """The best first; `whole`: all of them, not only those that a choice is made between."""
    rows = merged(plan.candidates)
    best = chosen(rows)
    shown = rows if whole or len(rows) - len(best) < HIDDEN_AT_LEAST else best
    candidates = [row.candidate for row in rows]
    lines = [_header(plan), *(_cells(row, candidates) for row in shown)]
    kept = [index for index, name in enumerate(COLUMNS) if name not in _without_news(plan)]
    numbers = [position for position, index in enumerate(kept) if COLUMNS[index] in NUMBERS]
    table = aligned([[line[index] for index in kept] for line in lines], numbers=numbers)
    left = len(rows) - len(shown)
    return f"{table}\n{left:,} more: --all" if left else table


def _header(plan: Plan) -> list[str]:
    unit = plan.candidates[0].place.node.unit.upper()
    billing = plan.cluster.billing.unit if plan.cluster.billing else ""
    named = {"GPUS": f"{unit}S", "HOURS": f"{unit}-H", "PRICE": "BILLED" if "hour" in billing else billing, "": ""}
    return [named.get(name, name) for name in COLUMNS]


def _without_news(plan: Plan) -> set[str]:
    """Columns that would say nothing."""
    kinds = {(one.place.partition_name, one.place.gpu.key) for one in plan.candidates}
    one_kind = len(kinds) == len({partition for partition, _ in kinds})
    unpriced = all(one.billing_units is None for one in plan.candidates)
    trains = plan.wishes.asked_task == "train"
    one_partition = len({one.place.partition_name for one in plan.candidates}) == 1
    empty = {"KIND": one_kind, "PARTITION": one_partition, "PRICE": unpriced, "CKPT": not trains}
    return {name for name, is_empty in empty.items() if is_empty}


def _cells(row: Row, candidates: Sequence[Candidate]) -> list[str]:
    """In the order of COLUMNS."""
    one = row.candidate
    case, place = one.case, one.place
    steps = case.accumulation_steps
    return [
        way_of(one),
        f"{case.strategy.gpus:,}",
        f"{one.nodes:,}",
        place.gpu.key,
        _partition_names(row.partitions),
        f"{gib(one.needed)}/{gib(available_bytes(case))}",
        f"{case.workload.batch} x {steps}" if steps > 1 else f"{case.workload.batch}",
        "on" if case.workload.checkpointing else "off",
        interval(one.duration),
        digits(one.gpu_hours),
        "" if one.billing_units is None else digits(one.billing_units),
        ", ".join(_remarks(one, candidates)),
    ]


def _remarks(one: Candidate, others: Sequence[Candidate]) -> list[str]:
    remarks = ["best"] if one is others[0] else []
    if one.tight:
        remarks.append("tight")
    if one.duration.jobs > 1:
        remarks.append(f"{one.duration.jobs:,} jobs")
    if one.idle_gpus:
        remarks.append(f"{one.idle_gpus:,} idle")
    if one is _fastest(others) and one is not others[0]:
        remarks.append("fastest")
    return remarks


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda one: one.duration.middle)


def _partition_names(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= WIDEST_PARTITIONS or len(names) == 1 else f"{names[0]}, {len(names) - 1} more"


def merged(candidates: Sequence[Candidate]) -> list[Row]:
    """In their order; of two that differ in checkpointing alone the first."""
    rows: dict[tuple[object, ...], list[Candidate]] = {}
    first: dict[tuple[object, ...], Candidate] = {}
    for one in candidates:
        wishes = one.wishes
        way = (one.place.node_name, one.case.strategy.gpus, wishes.strategy, wishes.copies, wishes.offload)
        checkpointing = first.setdefault(way, one).wishes.gradient_checkpointing
        if wishes.gradient_checkpointing == checkpointing:
            rows.setdefault((*way, one.duration.jobs, one.idle_gpus, one.nodes), []).append(one)
    return [Row(group[0], tuple(one.place.partition_name for one in group)) for group in rows.values()]


def chosen(rows: list[Row]) -> list[Row]:
    """The first ones, and those that something else speaks for: the fastest of all, the best on each type of node."""
    best_on_node: dict[str, Row] = {}
    for row in rows:
        best_on_node.setdefault(row.candidate.place.node_name, row)
    fastest = _fastest([row.candidate for row in rows])
    needed = [row for row in rows if row in best_on_node.values() or row.candidate is fastest]
    others = [row for row in rows if row not in needed and not row.candidate.idle_gpus]
    others += [row for row in rows if row not in needed and row.candidate.idle_gpus]
    kept = [*needed[:MOST_ROWS], *others[: max(0, MOST_ROWS - len(needed))]]
    return [row for row in rows if row in kept]
