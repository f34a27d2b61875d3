"""How much of a node's memory a model takes while it is loaded and cut."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from clusterlm.worker.training.start import gathered

SECONDS_BETWEEN_LOOKS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Loading:
    """The most that this process had of its own at once, above what it had before: the libraries are no model.

    Files that are mapped, as weights are while they are read, do not count: all processes of a node share their pages,
    and the kernel takes them back when it needs them.
    """

    def __init__(self) -> None:
        self._before = self._most = _own_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loading", daemon=True)

    def __enter__(self) -> Loading:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: object, trace: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            self._most = max(self._most, _own_bytes())

    def peaks(self) -> dict[str, Any]:
        """Until now; of all processes, which all ask for it: by rank, and their sum on each node."""
        self._stop()
        by_rank = gathered((socket.gethostname(), self._most - self._before))
        nodes = {node: sum(most for where, most in by_rank if where == node) for node, _ in by_rank}
        return {"processes": [most for _, most in by_rank], "nodes": nodes}


def _own_bytes() -> int:
    """Source: `man proc_pid_statm`: resident, and those of them that belong to files and to shared memory."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * PAGE_BYTES
