"""Programs that start at once: forks of a process that has imported what they need, and has done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from clusterlm.runs.attempt import ATTEMPT, Attempt
from tests.chaos.jobs import ONE_THREAD

Sabotage = Callable[[], object]
"""Done before the program begins; to be found by its name."""


def fork(said: Path, *command: object, attempt: Attempt | None = None, sabotage: Sabotage | None = None) -> BaseProcess:
    """`python -m` with a module and its arguments; what it says on standard error is added to a file."""
    os.environ.update(ONE_THREAD)
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clusterlm.cli.main", "clusterlm.worker.training.job"])
    process: BaseProcess = context.Process(target=_run, args=(said, [*map(str, command)], attempt, sabotage))
    process.start()
    return process


def _run(said: Path, command: list[str], attempt: Attempt | None, sabotage: Sabotage | None) -> None:
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if attempt is not None:
        os.environ[ATTEMPT] = str(attempt.path)
    if sabotage is not None:
        sabotage()
    sys.argv[1:] = command[1:]
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
