"""Rows of published speeds as the questions they answer: which reader knows a row's conditions."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rows.conditions import NotCovered
from benchmarks.speed_rows import generation, offload, pretraining, training
from benchmarks.speed_rows.conditions import Asked, conditions

READERS = (*offload.READERS, *generation.READERS, *pretraining.READERS, *training.READERS)


def asked_by(row: Mapping[str, str]) -> Asked:
    """NotCovered with the reason where the planner has no answer."""
    given = conditions(row)
    for matches, read in READERS:
        if matches(given):
            return read(given)
    raise NotCovered(f"task {given['task']!r} with {given['engine'][:40] or 'no engine named'!r}")


__all__ = ["Asked", "NotCovered", "asked_by", "conditions"]
