"""Checkpoints: written aside, read back, renamed. What bears the name of a step is whole, or was damaged later."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_file, sync_folder
from clusterlm.runs.attempt import write_json

UNFINISHED = ".unfinished"
DAMAGED = ".damaged"
"""What was found so is set aside, and removed when a later one is whole."""
CONTENTS = "contents.json"
"""Size and SHA-256 of every file, by its path in the checkpoint; written last."""
THREADS = 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    step: int
    processes: int
    """That wrote it: state that is cut into parts has as many."""
    bytes: int


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def seal(unfinished: Path, path: Path, step: int, processes: int) -> Checkpoint:
    """Make what stands in `unfinished` the checkpoint at `path`; by one process, when all have written their files.

    OSError where the disk refuses.
    """
    files = sorted(file for file in unfinished.rglob("*") if file.is_file())
    with ThreadPoolExecutor(THREADS) as threads:
        found = dict(zip(files, threads.map(_synced_digest, files), strict=True))
    contents = {
        str(file.relative_to(unfinished)): {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in found.items()
    }
    write_json(unfinished / CONTENTS, {"step": step, "processes": processes, "files": contents})
    if path.exists():
        shutil.rmtree(path)
    unfinished.rename(path)
    sync_folder(path.parent)
    return _described(path, step, processes, contents)


def newest(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last one that is whole; and what is wrong with those behind it, which are set aside.

    Whatever a killed process left unfinished is removed.
    """
    _remove(checkpoints.glob(f"*{UNFINISHED}"))
    damages: list[str] = []
    for path in reversed(named(checkpoints)):
        try:
            return _read(path), [f"{damage}: the one before it is taken" for damage in damages]
        except _Damaged as damage:
            damages.append(f"the checkpoint {path.name} is damaged: {damage}")
            _set_aside(path)
    return None, [f"{damage}: no other is left, and the training begins anew" for damage in damages]


def prune(checkpoints: Path, keep: int) -> None:
    """Leave the last `keep`, and nothing that was damaged; when a new one is whole."""
    _remove([*named(checkpoints)[:-keep], *checkpoints.glob(f"*{DAMAGED}")])


def named(checkpoints: Path) -> list[Path]:
    """Those that were whole once, the last one last."""
    return sorted(path for path in checkpoints.glob("step-*") if not path.suffix)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    aside = path.with_name(path.name + DAMAGED)
    try:
        _remove([aside])
        path.rename(aside)
    except OSError as problem:
        raise RunError(disk_problem(problem), where=str(path), hint="move it away") from None


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
        return _described(path, content["step"], content["processes"], content["files"])
    except FileNotFoundError as problem:
        raise _Damaged(f"{Path(problem.filename).name} is missing") from None
    except OSError as problem:
        raise _Damaged(f"{problem.filename or path}: {disk_problem(problem)}") from None
    except (ValueError, KeyError, TypeError) as problem:
        raise _Damaged(f"{CONTENTS} cannot be read: {problem}") from None


def _described(path: Path, step: int, processes: int, contents: Mapping[str, Mapping[str, Any]]) -> Checkpoint:
    return Checkpoint(path, step, processes, sum(known["bytes"] for known in contents.values()))


def _synced_digest(path: Path) -> str:
    sync_file(path)
    return _digest(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
