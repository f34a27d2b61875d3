"""Checkpoints: written aside, read back, renamed. What bears the name of a step is whole, or was damaged later."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_folder
from clusterlm.runs.attempt import write_json

UNFINISHED = ".unfinished"
CONTENTS = "contents.json"
"""Size and SHA-256 of every file, by its path in the checkpoint; written last."""
THREADS = 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    step: int
    processes: int
    """That wrote it: state that is cut into parts has as many."""


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08}"


def seal(unfinished: Path, path: Path, step: int, processes: int) -> Checkpoint:
    """Make what stands in `unfinished` the checkpoint at `path`; by one process, when all have written their files."""
    files = sorted(file for file in unfinished.rglob("*") if file.is_file())
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            found = dict(zip(files, threads.map(_synced_digest, files), strict=True))
        contents = {
            str(file.relative_to(unfinished)): {"bytes": file.stat().st_size, "sha256": digest}
            for file, digest in found.items()
        }
        write_json(unfinished / CONTENTS, {"step": step, "processes": processes, "files": contents})
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
        sync_folder(path.parent)
    except OSError as problem:
        raise RunError(disk_problem(problem), where=str(path), hint="the checkpoint before it is whole") from None
    return Checkpoint(path, step, processes)


def newest(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last one that is whole; and what is wrong with those that are not and stand before it."""
    said: list[str] = []
    for path in sorted(checkpoints.glob("step-*"), reverse=True):
        if path.name.endswith(UNFINISHED):
            continue
        try:
            return _read(path), said
        except _Damaged as damage:
            said.append(f"{path.name} is damaged ({damage}): the one before it is taken")
    return None, said


def prune(checkpoints: Path, keep: int) -> None:
    """Leave the last `keep`, and nothing that was never finished."""
    whole = sorted(path for path in checkpoints.glob("step-*") if not path.name.endswith(UNFINISHED))
    for path in (*whole[:-keep], *checkpoints.glob(f"*{UNFINISHED}")):
        shutil.rmtree(path, ignore_errors=True)


class _Damaged(Exception):
    pass


def _read(path: Path) -> Checkpoint:
    try:
        content = json.loads((path / CONTENTS).read_bytes())
        wanted = {path / name: known for name, known in content["files"].items()}
        for file, known in wanted.items():
            if file.stat().st_size != known["bytes"]:
                raise _Damaged(f"{file.name} has {file.stat().st_size:,} of {known['bytes']:,} bytes")
        with ThreadPoolExecutor(THREADS) as threads:
            for (file, known), digest in zip(wanted.items(), threads.map(_digest, wanted), strict=True):
                if digest != known["sha256"]:
                    raise _Damaged(f"{file.name} is not what was written")
        return Checkpoint(path, content["step"], content["processes"])
    except (OSError, ValueError, KeyError) as problem:
        raise _Damaged(str(problem)) from None


def _synced_digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return _digest(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
