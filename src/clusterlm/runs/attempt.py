"""Attempt: one execution of a run as a Slurm job, in a folder that it alone writes; Part: what one process does."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import RunError
from clusterlm.records.files import write_whole

ATTEMPT = "CLUSTERLM_ATTEMPT"
"""Names the attempt's folder to the processes of its job."""

OUTCOMES = "CLUSTERLM_OUTCOMES"
"""Names to several processes that no job started the folder in which each says how it ended."""


@dataclass(frozen=True, slots=True)
class Part:
    """The records whose place in the input, from 0, leaves `shard` when divided by `shards`; of these every `ranks`th.

    Neighbours go to different parts: an input that is sorted by length makes no part longer than another.
    """

    shard: int = 0
    shards: int = 1
    rank: int = 0
    ranks: int = 1

    def __contains__(self, index: int) -> bool:
        return index % self.shards == self.shard and index // self.shards % self.ranks == self.rank

    def indices(self, requests: int) -> range:
        """Those of so many records that are in it."""
        return range(self.shard, requests, self.shards)[self.rank :: self.ranks]

    def size(self, requests: int) -> int:
        return len(self.indices(requests))

    @property
    def is_all(self) -> bool:
        return self.shards * self.ranks == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a job knows of itself when it begins."""

    path: Path
    began: float
    """Unix time."""
    job: str
    """As Slurm calls it: 12, or 12_3 for a task of an array."""
    shard: int = 0
    shards: int = 1
    restarts: int = 0
    """Times that Slurm put the same job back into the queue before."""
    ends: float | None = None
    """Unix time at which Slurm ends it; None where that is not known."""
    nodes: tuple[str, ...] = ()
    gpus: int = 0

    @property
    def number(self) -> int:
        return int(self.path.name)

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    def file(self, name: str, rank: int = 0) -> Path:
        """results.jsonl of the first process, results.3.jsonl of the fourth."""
        return file_of(self.path, name, rank)

    def outcomes(self) -> list[dict[str, Any]]:
        """How its processes ended, as far as they could say so; the first process first."""
        return list(outcomes_in(self.path).values())

    def write(self) -> None:
        values = {name: value for name, value in asdict(self).items() if name != "path"}
        write_json(self.path / "attempt.json", values)


def file_of(folder: Path, name: str, rank: int) -> Path:
    stem, suffix = name.split(".", 1)
    return folder / (f"{stem}.{rank}.{suffix}" if rank else name)


def outcomes_in(folder: Path) -> dict[int, dict[str, Any]]:
    """By rank, the first process first."""
    found = {int(path.stem.partition(".")[2] or 0): path for path in folder.glob("outcome*.json")}
    return {rank: json.loads(found[rank].read_bytes()) for rank in sorted(found)}


def read_attempt(path: Path) -> Attempt:
    try:
        values = json.loads((path / "attempt.json").read_bytes())
    except (OSError, ValueError) as problem:
        hint = f"{ATTEMPT} is set by the batch script; to run by hand, leave it out"
        raise RunError(f"is no folder of an attempt: {problem}", where=str(path), hint=hint) from None
    values["nodes"] = tuple(values["nodes"])
    return Attempt(path=path, **values)


def attempt_of_this_job() -> Attempt | None:
    """None for a process that no batch script started."""
    path = os.environ.get(ATTEMPT)
    return read_attempt(Path(path)) if path else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
