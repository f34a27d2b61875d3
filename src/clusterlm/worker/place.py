"""Place: what one process does of a run, and the files that it alone writes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterlm.runs.asked import Asked
from clusterlm.runs.attempt import OUTCOMES, Attempt, Part, file_of, write_json
from clusterlm.runs.decided import asked_of_job
from clusterlm.runs.folder import RunFolder
from clusterlm.worker.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Place:
    """Without an attempt: of a process that was started by hand, and does all."""

    run: RunFolder
    attempt: Attempt | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def asked(self) -> Asked[Any]:
        """What is to be done; in a job with what its plan decided."""
        return self.run.read_asked() if self.attempt is None else asked_of_job(self.run)

    @property
    def part(self) -> Part:
        if self.attempt is None:
            return Part()
        return Part(self.attempt.shard, self.attempt.shards, self.ranks.rank, self.ranks.ranks)

    @property
    def results(self) -> Path:
        return self.attempt.file("results.jsonl", self.ranks.rank) if self.attempt else self.run.results

    def results_of_others(self) -> list[Path]:
        return [file for file in self.run.result_files() if file != self.results]

    @property
    def ends(self) -> float | None:
        """Unix time of the time limit."""
        return self.attempt.ends if self.attempt else None

    def locked(self) -> AbstractContextManager[None]:
        """RunError where a process that was started by hand is at work, and this is another."""
        return self.run.locked(shared=self.attempt is not None)

    def progress_file(self) -> Path | None:
        """None before a process that was started by hand has begun."""
        return self.attempt.file("progress.json", self.ranks.rank) if self.attempt else None

    def outcome_file(self) -> Path | None:
        """Where it says how it ended; None where nobody asks for it."""
        folder = self.attempt.path if self.attempt else os.environ.get(OUTCOMES)
        return file_of(Path(folder), "outcome.json", self.ranks.rank) if folder else None

    def begin(self, environment: dict[str, Any]) -> Path:
        """Writes down with what it works; the file for its progress."""
        if self.attempt is None:
            return self.run.begin_attempt(environment) / "progress.json"
        if self.ranks.rank == 0:
            write_json(self.attempt.file("environment.json"), environment)
        return self.attempt.file("progress.json", self.ranks.rank)
