"""Things that are dear to make (a tiny model, the demo's model) and are made once for all xdist workers."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_between_workers(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this test run, filled by the first worker that asks: `make(folder)`. Only read from it.

    The others wait. When `make` raises, the folder is left unmade and the next one that asks tries again.
    """
    own = tmp_path_factory.getbasetemp()
    session = own.parent if own.name.startswith("popen-") else own  # xdist gives each worker <session>/popen-gw0
    folder = session / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, or its process dies
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
