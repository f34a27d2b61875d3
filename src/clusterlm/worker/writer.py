"""Writer: results go to the disk beside the computing."""

from __future__ import annotations

import queue
import sys
import threading

from clusterlm.records.log import ResultLog
from clusterlm.records.request import Result


class Writer:
    """Appends in a thread of its own, so that the disk's waiting does not stop the computing."""

    def __init__(self, log: ResultLog) -> None:
        self._log = log
        self._queue: queue.SimpleQueue[list[Result] | None] = queue.SimpleQueue()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def put(self, results: list[Result]) -> None:
        """Raises what stopped the writer: without a place for results there is no use in computing more."""
        if self._problem is not None:
            raise self._problem
        if results:
            self._queue.put(results)

    def close(self) -> None:
        """Wait until all is on the disk."""
        self._queue.put(None)
        self._thread.join()
        if self._problem is not None and sys.exc_info()[1] is not self._problem:
            raise self._problem

    def _work(self) -> None:
        while (results := self._queue.get()) is not None:
            ended = False
            while not self._queue.empty():  # one sync for all that came meanwhile
                more = self._queue.get()
                ended = more is None
                results += more or []
            try:
                self._log.append(results)
            except Exception as problem:  # noqa: BLE001 put() and close() raise it in the thread that can stop the work
                self._problem = problem
                return
            if ended:
                return
