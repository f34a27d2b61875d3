"""Tracker: counts what is done of a part, and tells the listener and the run folder now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from clusterlm.records.log import ResultLog
from clusterlm.records.request import Result
from clusterlm.runs.attempt import write_json
from clusterlm.runs.progress import Progress
from clusterlm.worker.place import Place

SECONDS_BETWEEN_PROGRESS = 0.5
SECONDS_BETWEEN_PROGRESS_FILES = 5


class Tracker:
    def __init__(self, place: Place, requests: int, log: ResultLog, on_progress: Callable[[Progress], None]) -> None:
        """`requests`: of the whole run."""
        self._place = place
        self._on_progress = on_progress
        self._file = place.progress_file()
        indices = place.part.indices(requests)
        self._requests = len(indices)
        self._failed = log.failed_among(indices)
        self._done = sum(index in log for index in indices) - self._failed
        self._new_results = 0
        self._new_tokens = 0
        self._started = self._told = self._filed = time.monotonic()
        self._stopped: float | None = None

    @property
    def missing(self) -> int:
        return self._requests - self._done - self._failed

    def begin(self, environment: dict[str, Any]) -> None:
        self._file = self._place.begin(environment)
        self._started = self._told = self._filed = time.monotonic()
        self._on_progress(self.progress())

    def note(self, results: list[Result]) -> None:
        for result in results:
            self._failed += result.error is not None
            self._done += result.error is None
            self._new_tokens += sum(choice.completion_tokens for choice in result.choices)
        self._new_results += len(results)
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_PROGRESS:
            self._told = now
            self._on_progress(self.progress())
        if now - self._filed >= SECONDS_BETWEEN_PROGRESS_FILES:
            self._filed = now
            self._write()

    def end(self) -> None:
        self._stopped = time.monotonic()
        self._on_progress(self.progress())
        self._write()

    def progress(self) -> Progress:
        return Progress(
            requests=self._requests,
            done=self._done,
            failed=self._failed,
            new_results=self._new_results,
            new_tokens=self._new_tokens,
            seconds=(self._stopped or time.monotonic()) - self._started,
        )

    def _write(self) -> None:
        if self._file is not None:
            write_json(self._file, asdict(self.progress()))
