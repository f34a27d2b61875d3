"""From a path to the reader of its format."""

from __future__ import annotations

from pathlib import Path

from clusterlm.errors import InputError, UsageError, did_you_mean
from clusterlm.records.formats import Csv, JsonLines, JsonList, TextLines
from clusterlm.records.row import Reader
from clusterlm.records.tables import Parquet, open_folder

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

MOST_NAMES_TO_OFFER = 100


def open_reader(path: Path, *, whole_file: bool = False, split: str | None = None) -> Reader:
    """InputError where the path cannot be read, UsageError where an option does not fit what it is."""
    _check_readable(path)
    if whole_file and path.suffix.lower() != ".txt":
        raise UsageError("--whole-file is for .txt files", where=str(path), hint="leave --whole-file out")
    if path.is_dir():
        return open_folder(path, split)
    if split is not None:
        raise UsageError("--split is for dataset folders, and this is a file", where=str(path))
    return _open_file(path, whole_file)


def _check_readable(path: Path) -> None:
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings) if 0 < len(siblings) < MOST_NAMES_TO_OFFER else None
        raise InputError("there is no such file", where=str(path), hint=hint)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def _open_file(path: Path, whole_file: bool) -> Reader:
    match path.suffix.lower():
        case ".txt":
            return TextLines(path, whole_file=whole_file)
        case ".jsonl" | ".ndjson":
            return JsonLines(path)
        case ".json":
            return JsonList(path)
        case ".csv":
            return Csv(path, delimiter=",")
        case ".tsv":
            return Csv(path, delimiter="\t")
        case ".parquet":
            return Parquet(path)
    hint = f"accepted: {', '.join(SUFFIXES)}, or a Hugging Face dataset folder"
    raise InputError(f"unknown kind of file: {path.suffix or 'no suffix'}", where=str(path), hint=hint)
