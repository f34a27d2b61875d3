"""Room on the disk for what a run writes: bytes and files, by the file system, by its quota, by the site's profile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clusterlm.cluster import Cluster
from clusterlm.errors import RunError
from clusterlm.planning.stored import checkpoint_bytes, published_bytes
from clusterlm.runs.asked import Asked
from clusterlm.runs.before.areas import advice, area_of
from clusterlm.runs.before.mounts import file_system_of, nearest_folder
from clusterlm.runs.before.quota import lustre_quota
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.order import Order
from clusterlm.units import show_bytes

BYTES_OF_TOKEN = 5
"""Of text, with its share of JSON's escapes; English has about four characters in a token."""
LEAST_LINE_BYTES = 150
"""Of a result in results.jsonl whose answer is empty, and which has a short id."""
BYTES_OF_LEARNED_TOKEN = 5
"""Its number in 4 bytes, and whether it is learned."""
ANSWERED = "the longest answers would take"
TRAINED = "the trained model and its checkpoints would take"
FILES_OF_RUN = 14
"""run.toml, plan.json, job.sbatch, logs/ and their kin, and OUTPUT."""
FILES_OF_ATTEMPT = 8
"""Its folder, its log, attempt.json, journal, environment, progress, results, outcome."""
FILES_OF_RANK = 3
"""Progress, results and outcome of each further process."""
FILES_OF_CHECKPOINT = 12
"""Settings, tokenizer, trainer and what each file holds; the weights' own files come with their bytes."""
FILES_OF_CHECKPOINT_RANK = 4
"""Random numbers, and parts of the model and of the optimizer, of each process."""


@dataclass(frozen=True)
class Room:
    """What is needed, or what is free; None: without a limit, or not known."""

    bytes: int | None
    files: int | None


@dataclass(frozen=True)
class Free:
    room: Room
    where: str
    """In a sentence."""


def of_room(made: Order, asked: Asked[Any], run: RunFolder, cluster: Cluster) -> Iterator[str]:
    """RunError where even the shortest answers, or the checkpoints of a training, find no room."""
    what, way_out = ANSWERED, f"delete what is old, or -o FILE {advice(cluster)}"
    if made.best.case.workload.trains:
        least, most = (_of_training(made, asked, run, attempts) for attempts in (1, 2))
        what, way_out = TRAINED, f"--keep-checkpoints 1, delete what is old, or -o FOLDER {advice(cluster)}"
    else:
        least, most = _least(made, asked, run), _most(made, asked)
    for free in _free(run):
        for needed, there, shown in (
            (least.bytes, free.room.bytes, show_bytes),
            (least.files, free.room.files, _show_files),
        ):
            if needed is not None and there is not None and there < needed:
                problem = f"{shown(there)} left {free.where}; this run needs {shown(needed)} at least"
                raise RunError(problem, where=str(run.path), hint=way_out)
        yield from _close(most, free.room, f"left {free.where}", what)
    area = area_of(run.path, cluster)
    if area is not None:
        quota = None if area.quota_gib is None else round(area.quota_gib * 2**30)
        yield from _close(most, Room(quota, area.quota_files), f"in all is the usual quota on {area.path}", what)


def _close(most: Room, there: Room, of: str, what: str) -> Iterator[str]:
    if most.bytes is not None and there.bytes is not None and there.bytes < most.bytes:
        yield f"{show_bytes(there.bytes)} {of}; {what} {show_bytes(most.bytes)}"
    if most.files is not None and there.files is not None and there.files < most.files:
        yield f"{_show_files(there.files)} {of}; a run that is interrupted may write {_show_files(most.files)}"


def _show_files(count: float) -> str:
    return f"{count:,.0f} files"


def _least(made: Order, asked: Asked[Any], run: RunFolder) -> Room:
    """Of what is not there yet."""
    written = sum(file.stat().st_size for file in run.result_files())
    files = _files(made, attempts=1) - (FILES_OF_RUN if run.path.exists() else 0)
    return Room(max(0, asked.requests * LEAST_LINE_BYTES - written), files)


def _most(made: Order, asked: Asked[Any]) -> Room:
    """Results and the output, with answers as long as they may be; each shard interrupted once."""
    tokens = (made.best.asked.sequence_length or 0) + asked.spec.max_new_tokens * asked.spec.n
    return Room(2 * asked.requests * (tokens * BYTES_OF_TOKEN + LEAST_LINE_BYTES), _files(made, attempts=2))


def _of_training(made: Order, asked: Asked[Any], run: RunFolder, attempts: int) -> Room:
    """What is there at once: the checkpoints that are kept with one more, or with the model; and the texts as tokens.

    The worker will refuse to begin with less. What is there already is left out.
    """
    case = made.best.case
    checkpoint, kept = sum(checkpoint_bytes(case.shape, case.workload, case.strategy)), case.keep_checkpoints
    result = checkpoint_bytes(case.shape, case.workload, case.strategy)[0]
    result += published_bytes(case.shape) if asked.spec.merge else 0
    tokens = (made.best.asked.dataset_tokens or 0) * BYTES_OF_LEARNED_TOKEN
    there = sum(file.stat().st_size for folder in (run.checkpoints, run.data) for file in folder.rglob("*"))
    files = (kept + 1) * (FILES_OF_CHECKPOINT + FILES_OF_CHECKPOINT_RANK * made.job.ranks)
    return Room(max(0, kept * checkpoint + max(checkpoint, result) + tokens - there), _files(made, attempts) + files)


def _files(made: Order, attempts: int) -> int:
    of_attempt = FILES_OF_ATTEMPT + FILES_OF_RANK * (made.job.ranks - 1)
    return FILES_OF_RUN + attempts * made.submission.shards * of_attempt


def _free(run: RunFolder) -> Iterator[Free]:
    """Of the file system, and of the project's or user's quota on it."""
    there = nearest_folder(run.path)
    system = file_system_of(there)
    mount = system.mount if system else there
    try:
        state = os.statvfs(there)
    except OSError:
        return
    files = state.f_favail if state.f_files else None
    yield Free(Room(state.f_bavail * state.f_frsize, files), f"on {mount}")
    if system is not None and system.type == "lustre" and (quota := lustre_quota(there)):
        yield Free(Room(quota.bytes_left, quota.files_left), f"of {quota.whose} quota on {mount}")
