"""Training a model here, seen: what becomes of the data, the loss while it goes, signals, and the account."""

from __future__ import annotations

import os
import signal
from threading import Event

from clusterlm.cli.models import find
from clusterlm.cli.screen import Screen, say, stopping
from clusterlm.cli.several import train_on_several
from clusterlm.cli.work import refuse_beside_jobs
from clusterlm.errors import ClusterlmError
from clusterlm.runs.folder import RunFolder, folder_for
from clusterlm.runs.launch import prepare
from clusterlm.runs.progress import Progress
from clusterlm.spec import TrainSpec
from clusterlm.units import show_seconds

MISTAKES = (1, 2)
"""Exit statuses of what the user can mend."""


def learn(spec: TrainSpec, *, restart: bool = False) -> int:
    """Prepare the run and train; the exit status."""
    refuse_beside_jobs(folder_for(spec))
    prepared = prepare(spec, lambda: find(spec), restart=restart)
    run = prepared.run
    for note in prepared.notes:
        say(note)
    finished = run.finished()
    if finished is not None:
        say(f"done already: {finished.done:,} steps")
        _report(spec, run, finished)
        return 0
    try:
        processes = spec.gpus or 1
        return _several(spec, run, processes) if processes > 1 else _alone(spec, run)
    except ClusterlmError:
        run.remove_unless_begun()
        raise


def _alone(spec: TrainSpec, run: RunFolder) -> int:
    from clusterlm.worker.outcome import Interrupted, stop_status

    screen = Screen()
    is_begun = Event()

    def leave(number: signal.Signals) -> None:
        """Importing or loading may take minutes, and nothing is lost with them."""
        if not is_begun.is_set():
            say(f"stopped before it began ({number.name}). The same command begins again.")
            os._exit(stop_status(number.name))

    with stopping(leave) as stop:
        from clusterlm.worker.place import Place
        from clusterlm.worker.training.job import run_training

        try:
            progress = run_training(
                Place(run),
                screen.show,
                lambda: stop[0].name if stop else None,
                is_begun.set,
                lambda text: _over(screen, text),
            )
        except Interrupted as end:
            screen.end()
            say(f"interrupted ({end.reason}); a checkpoint is saved. The same command continues.")
            return stop_status(end.reason)
        finally:
            screen.end()
    _report(spec, run, progress)
    return 0


def _several(spec: TrainSpec, run: RunFolder, processes: int) -> int:
    status = train_on_several(run, processes)
    finished = run.finished()
    if status == 0 and finished is not None:
        _report(spec, run, finished)
    elif status in MISTAKES:
        run.remove_unless_begun()
    return status


def _over(screen: Screen, text: str) -> None:
    screen.end()
    say(text)


def _report(spec: TrainSpec, run: RunFolder, progress: Progress) -> None:
    if progress.new_results:
        say(
            f"{progress.new_results:,} steps in {show_seconds(progress.seconds)},"
            f" {progress.tokens_per_second:,.0f} tokens/s"
        )
    say(f"model:      {spec.output}")
    say(f"run folder: {run.path}")
