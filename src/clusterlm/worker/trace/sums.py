"""Live bytes as sums of sizes: solves for the coefficients, and picks the sums that are the highest somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy

from clusterlm.planning.sizes import Sizes

Law = dict[str, float]
"""Bytes for each element of a size."""
COEFFICIENT_STEPS = 8
"""Bytes for an element are whole, or halves and quarters where a size is a part of another."""
LARGEST_MISFIT = 1e-6


def table_of(rows: Sequence[Sizes]) -> tuple[list[str], Any]:
    names = list(rows[0])
    return names, numpy.array([[row[name] for name in names] for row in rows])


def basis(names: list[str], table: Any) -> list[int]:
    """Columns that are no sum of those before them."""
    scaled = table / numpy.maximum(numpy.abs(table).max(axis=0), 1e-300)
    chosen: list[int] = []
    directions = numpy.zeros((table.shape[0], 0))
    for index in range(len(names)):
        column = scaled[:, index]
        rest = column - directions @ (directions.T @ column)
        rest = rest - directions @ (directions.T @ rest)
        if numpy.linalg.norm(rest) > 1e-7 * numpy.linalg.norm(column) > 0:
            chosen.append(index)
            directions = numpy.column_stack([directions, rest / numpy.linalg.norm(rest)])
    return chosen


def laws(rows: Sequence[Sizes], moments: Any) -> list[Law]:
    """A sum of sizes for each column of `moments` (examples x moments, live bytes); NotLinearError where it is none."""
    names, table = table_of(rows)
    chosen = basis(names, table)
    scale = table[:, chosen].max(axis=0)
    found, *_ = numpy.linalg.lstsq(table[:, chosen] / scale, moments, rcond=None)
    coefficients = found / scale[:, None]
    rounded = numpy.round(coefficients * COEFFICIENT_STEPS) / COEFFICIENT_STEPS
    wrong = numpy.abs(table[:, chosen] @ rounded - moments).max(axis=0) > 0.5
    rounded[:, wrong] = coefficients[:, wrong]
    misfit = numpy.abs(table[:, chosen] @ rounded - moments) / numpy.maximum(numpy.abs(moments), 1000)
    if misfit.max() > LARGEST_MISFIT:
        worst = int(misfit.max(axis=0).argmax())
        raise NotLinearError(worst, float(misfit.max()))
    return [
        {names[index]: float(value) for index, value in zip(chosen, column, strict=True) if abs(value) > 1e-3}
        for column in rounded.T
    ]


class NotLinearError(Exception):
    """Moment, and by how much it is missed."""


def highest(peaks: list[Law], sizes: Sequence[Sizes]) -> list[Law]:
    """Those that are the highest somewhere."""
    unique = [dict(items) for items in sorted({tuple(sorted(law.items())) for law in peaks})]
    names = sorted({name for law in unique for name in law})
    table = numpy.array([[size.get(name, 0.0) for name in names] for size in sizes])
    values = table @ numpy.array([[law.get(name, 0.0) for name in names] for law in unique]).T
    tallest = set(values.argmax(axis=1).tolist()) if names else set()
    return [unique[index] for index in sorted(tallest) if unique[index]]
