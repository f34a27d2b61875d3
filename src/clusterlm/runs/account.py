"""How far a run is, and what it took, by what its attempts wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.records.log import ResultLog
from clusterlm.runs.attempt import Attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.gained import SAVED, STEPS, last_line
from clusterlm.runs.progress import Progress
from clusterlm.runs.steps import steps_of
from clusterlm.runs.told import Told


@dataclass(frozen=True)
class Account:
    """Of the whole run, in its unit: records, or steps of a training; and the GPU time of its jobs."""

    requests: int
    done: int
    failed: int
    gpu_seconds: float
    unit: str = "records"
    saved: int | None = None
    """Steps that the last checkpoint holds; None where there is none, and where none is needed any more."""
    loss: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    """Of a training: the most of one process until its last step; tensors on its GPU, or all of it without one."""
    mfu: float | None = None


def account_of(
    run: RunFolder, asked: Mapping[str, Any], attempts: Sequence[Told], finished: Progress | None
) -> Account:
    """`asked`: the content of run.json; `attempts`: those that were jobs; `finished`: the run's last account."""
    if asked["spec"].get("task") == "train":
        return _of_training(run, asked, attempts, finished)
    requests = int(asked["requests"])
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


def _of_training(
    run: RunFolder, asked: Mapping[str, Any], attempts: Sequence[Told], finished: Progress | None
) -> Account:
    """As its last attempt tells that has trained."""
    folders = list(reversed(run.attempts()))
    last = next((folder for folder in folders if (folder / STEPS).exists()), None)
    step = (last_line(last / STEPS) if last else None) or {}
    progress = _json(last / "progress.json") if last else {}
    saved = next((line for folder in folders if (line := last_line(folder / SAVED))), {})
    told = finished or (Progress(**progress) if progress else None)
    return Account(
        requests=told.requests if told else steps_of(run, asked["spec"], int(asked["requests"])),
        done=finished.done if finished else int(step.get("step", 0)),
        failed=0,
        gpu_seconds=_gpu_seconds(attempts) + _gpu_seconds_by_hand(folders),
        unit="steps",
        saved=None if finished else saved.get("step"),
        loss=step.get("loss"),
        tokens_per_second=told.tokens_per_second if told else None,
        memory_bytes=step.get("memory_bytes"),
        mfu=step.get("mfu"),
    )


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


def _gpu_seconds_by_hand(folders: Sequence[Path]) -> float:
    """Of a training, by what the steps of attempts say that were no jobs."""
    last = (last_line(folder / STEPS) for folder in folders if not (folder / "attempt.json").exists())
    return sum(3600 * ((step or {}).get("gpu_hours") or 0.0) for step in last)


def measured_seconds_per_record(attempts: Sequence[Attempt]) -> float | None:
    """Of one job, by what its attempts did; None where nothing was finished yet."""
    done, spent = 0, 0.0
    for attempt in attempts:  # its processes work side by side
        found = [_json(file) for file in attempt.path.glob("progress*.json")]
        done += sum(content.get("new_results", 0) for content in found)
        spent += max((content.get("seconds", 0.0) for content in found if content.get("new_results")), default=0.0)
    return spent / done if done else None
