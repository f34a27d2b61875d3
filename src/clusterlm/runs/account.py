"""How far a run is, and what it took, by what its attempts wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.records.log import ResultLog
from clusterlm.runs.attempt import Attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.runs.told import Told


@dataclass(frozen=True)
class Account:
    """Records of the whole run, and the GPU time of its jobs."""

    requests: int
    done: int
    failed: int
    gpu_seconds: float


def account_of(run: RunFolder, attempts: Sequence[Told], requests: int, finished: Progress | None) -> Account:
    """`attempts`: those that were jobs; `finished`: the run's last account."""
    if finished is not None:
        return Account(finished.requests, finished.done, finished.failed, _gpu_seconds(attempts))
    by_hand = run.progress_by_hand()
    if len(_cuts(attempts)) + (by_hand is not None) > 1:
        with ResultLog(None, run.result_files()) as log:  # cut in several ways: no sum of parts is the whole
            return Account(requests, len(log) - log.failed_count, log.failed_count, _gpu_seconds(attempts))
    if by_hand:
        return Account(requests, by_hand.done, by_hand.failed, _gpu_seconds(attempts))
    parts = _latest_of_each_part([one.attempt for one in attempts])
    done, failed = sum(part["done"] for part in parts), sum(part["failed"] for part in parts)
    return Account(requests, done, failed, _gpu_seconds(attempts))


def _cuts(attempts: Sequence[Told]) -> set[tuple[int, int]]:
    """Into how many shards and ranks the input was cut, each time that somebody worked on it."""
    ranks = [(one.attempt.shards, len(list(one.attempt.path.glob("results*.jsonl")))) for one in attempts]
    return {(shards, ranks_of_shard) for shards, ranks_of_shard in ranks if ranks_of_shard}


def _latest_of_each_part(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Progress of every process, as the last attempt of its part wrote it."""
    latest: dict[tuple[int, str], dict[str, Any]] = {}
    for attempt in attempts:
        for file in attempt.path.glob("progress*.json"):
            latest[attempt.shard, file.name] = _json(file)
    return [content for content in latest.values() if content]


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError):
        return {}


def _gpu_seconds(attempts: Sequence[Told]) -> float:
    return sum(one.attempt.gpus * one.seconds for one in attempts)


def measured_seconds_per_record(attempts: Sequence[Attempt]) -> float | None:
    """Of one job, by what its attempts did; None where nothing was finished yet."""
    done, spent = 0, 0.0
    for attempt in attempts:  # its processes work side by side
        found = [_json(file) for file in attempt.path.glob("progress*.json")]
        done += sum(content.get("new_results", 0) for content in found)
        spent += max((content.get("seconds", 0.0) for content in found if content.get("new_results")), default=0.0)
    return spent / done if done else None
