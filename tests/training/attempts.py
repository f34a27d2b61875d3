"""Trainings that are cut: a run as `clusterlm train` makes it, and attempts at it in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusterlm.runs.attempt import Attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.launch import prepare
from clusterlm.runs.progress import Progress
from clusterlm.runs.submission import Submission
from clusterlm.spec import TrainSpec, make_spec
from clusterlm.store import find_model
from clusterlm.worker.outcome import Interrupted
from clusterlm.worker.place import Place
from clusterlm.worker.training.job import run_training
from tests.chaos import jobs

STEPS_PER_EPOCH = 6
SETTINGS: dict[str, Any] = {"learning_rate": 0.01, "global_batch_size": 16, "epochs": 2}
"""Of 96 texts: 12 steps."""


def prepared(model: Path, texts: Path, output: Path, **settings: Any) -> RunFolder:
    asked = {"model": str(model), "input": str(texts), "output": str(output), **SETTINGS, **settings}
    return prepare(make_spec(TrainSpec, asked), lambda: find_model(str(model)), restart=False).run


def attempt(
    run: RunFolder, stop_at: int | None = None, on_step: Callable[[int], object] = lambda step: None
) -> tuple[Progress | None, list[str]]:
    """What it came to, None where it was stopped; and what it said. `stop_at`: the step that a signal finds it in."""
    said: list[str] = []
    done = last_step(run)
    assert stop_at is None or stop_at > done

    def look(progress: Progress) -> None:
        nonlocal done
        done = progress.done
        on_step(done)

    def signalled() -> str | None:
        return "SIGTERM" if stop_at is not None and done + 1 >= stop_at else None

    try:
        return run_training(Place(run), look, signalled, say=said.append), said
    except Interrupted as end:
        assert end.reason == "SIGTERM"
        return None, said


def job_of(run: RunFolder, ends: float | None = None) -> Attempt:
    """A new attempt, as the batch script of a submitted run makes it."""
    Submission(cluster="a-cluster", model=run.read_asked().model_name, shards=1, gpus=1, seconds=3600).write(run)
    return jobs.attempt(run, ends=ends)


def checkpoints(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir()) if run.checkpoints.exists() else []


def last_step(run: RunFolder) -> int:
    """Of the last checkpoint."""
    found = [int(name.removeprefix("step-")) for name in checkpoints(run) if name.removeprefix("step-").isdigit()]
    return max(found, default=0)
