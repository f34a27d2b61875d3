"""The ways that fit as a table: one row for each that differs in more than checkpointing or the partition's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.room import available_bytes
from clusterlm.report.choice_words import billed, digits, interval, nodes_of, way_of
from clusterlm.report.plan import gib
from clusterlm.report.table import aligned

MOST_ROWS = 8
WIDEST_PARTITIONS = 24
PRICE = 8
"""Column of the site's own price."""


@dataclass(frozen=True)
class Row:
    candidate: Candidate
    partitions: tuple[str, ...]
    """Those that differ in nothing that a row shows."""


def table_of_ways(plan: Plan, *, whole: bool) -> str:
    """The best first; `whole`: all of them, not only those that a choice is made between."""
    rows = merged(plan.candidates)
    shown = rows if whole else chosen(rows)
    kinds = {row.candidate.place.gpu.key for row in rows}
    priced = any(billed(row.candidate) for row in rows)
    unit = plan.candidates[0].place.node.unit.upper()
    header = ["WAY", f"{unit}S", "", "PARTITION", "GIB", "BATCH", "TIME", f"{unit}-H", _header_of_price(plan), ""]
    if len(kinds) > 1:
        header[2] = "KIND"
    cells = [_cells(row, rows, named=len(kinds) > 1) for row in shown]
    keep = [index for index in range(len(header)) if priced or index != PRICE]
    table = aligned(
        [[line[index] for index in keep] for line in (header, *cells)], numbers=[1, 7, 8] if priced else [1, 7]
    )
    left = len(rows) - len(shown)
    return f"{table}\n{left} more: --all" if left else table


def _header_of_price(plan: Plan) -> str:
    """The site's own unit, where it is not simply hours."""
    unit = plan.cluster.billing.unit if plan.cluster.billing else ""
    return "BILLED" if "hour" in unit else unit


def _cells(row: Row, rows: Sequence[Row], *, named: bool) -> list[str]:
    one = row.candidate
    case, place = one.case, one.place
    nodes = nodes_of(one.nodes) if one.nodes > 1 or one.case.strategy.gpus == place.node.gpus else ""
    at_once = f"{case.workload.batch}"
    if case.accumulation_steps > 1:
        at_once += f" x {case.accumulation_steps}"
    return [
        way_of(one),
        f"{case.strategy.gpus:,}",
        ", ".join(part for part in (place.gpu.key if named else "", nodes) if part),
        _partition_names(row.partitions),
        f"{gib(one.needed)} of {gib(available_bytes(case))}",
        at_once,
        interval(one.duration),
        digits(one.gpu_hours),
        digits(one.billing_units) if one.billing_units is not None else "",
        ", ".join(_remarks(one, [other.candidate for other in rows])),
    ]


def _remarks(one: Candidate, others: Sequence[Candidate]) -> list[str]:
    remarks = ["<- best"] if one is others[0] else []
    if one.tight:
        remarks.append("tight")
    if one.duration.jobs > 1:
        remarks.append(f"{one.duration.jobs} jobs in a chain")
    if one.idle_gpus:
        remarks.append(f"{one.idle_gpus} idle")
    if one.case.workload.trains and not one.case.workload.checkpointing:
        remarks.append("no checkpointing")
    if one is _fastest(others) and len(others) > 1:
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
