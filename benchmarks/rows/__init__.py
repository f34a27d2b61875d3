"""Rows of published measurements as the questions they answer: which reader knows a row's conditions."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rows import cards, fsdp_qlora, generation, litgpt, peft, serving, torchtitan, training, unstated
from benchmarks.rows.conditions import NotCovered, Question, conditions, read_rows

READERS = (
    *serving.READERS,
    *training.READERS,
    *litgpt.READERS,
    *fsdp_qlora.READERS,
    *torchtitan.READERS,
    *peft.READERS,
    *unstated.READERS,
    *cards.READERS,
    *generation.READERS,
)


def question(row: Mapping[str, str]) -> Question:
    """NotCovered with the reason where the planner has no answer."""
    asked = conditions(row)
    for matches, read in READERS:
        if matches(asked):
            return read(asked)
    raise NotCovered(f"software {asked['software'][:40] or 'unstated'!r}")


__all__ = ["NotCovered", "Question", "conditions", "question", "read_rows"]
