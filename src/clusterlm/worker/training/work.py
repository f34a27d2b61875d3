"""Work: what one process of a training knows of its place in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clusterlm.runs.asked import Asked
from clusterlm.runs.progress import Progress
from clusterlm.spec import TrainSpec
from clusterlm.worker.place import Place

METRICS = "steps.jsonl"
"""Of an attempt: a line a step."""
HELD_OUT = "held_out.jsonl"
"""Of a run: the loss on what is held out."""

ShouldStop = Callable[[], str | None]
"""The name of the signal that asks for it; None: go on."""
Say = Callable[[str], None]


@dataclass
class Work:
    """One process's way through a training."""

    place: Place
    asked: Asked[TrainSpec]
    should_stop: ShouldStop
    on_progress: Callable[[Progress], None]
    say: Say

    @property
    def spec(self) -> TrainSpec:
        return self.asked.spec

    @property
    def is_first(self) -> bool:
        return self.place.ranks.rank == 0
