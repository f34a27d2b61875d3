"""Readers for Parquet files and for Hugging Face dataset folders; pyarrow is loaded when the first one is read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from clusterlm.errors import InputError, MissingPackage, UsageError, did_you_mean
from clusterlm.records.formats import Csv, JsonLines
from clusterlm.records.row import Reader, Row, check_column_names

BATCH_ROWS = 256
"""Rows that are Python objects at one time."""


def load_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as problem:
        hint = "pip install 'clusterlm[run]'"
        raise MissingPackage("Parquet files and dataset folders need the package pyarrow", hint=hint) from problem
    return pyarrow


@contextlib.contextmanager
def _arrow_problems(path: Path, wanted: str) -> Iterator[None]:
    """What pyarrow raises about a file's content, as InputError; the disk's own OSError passes."""
    pyarrow = load_pyarrow()
    try:
        yield
    except UnicodeDecodeError as problem:
        hint = "write the file again with a text column that is UTF-8"
        raise InputError(f"a text is not UTF-8: {problem}", where=str(path), hint=hint) from problem
    except (pyarrow.ArrowException, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        raise InputError(f"not {wanted}: {problem}", where=str(path), hint="copy or write the file again") from problem


class Parquet:
    """One Parquet file. In a place, rows count from 0, as the default ids do."""

    form: Literal["table"] = "table"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> tuple[str, ...]:
        with _arrow_problems(self.path, "a Parquet file"):
            names = load_pyarrow().parquet.read_schema(self.path).names
        check_column_names(names, self.path)
        return tuple(names)

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        return _numbered(self.path, self._batches(wanted))

    def _batches(self, wanted: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        with (
            _arrow_problems(self.path, "a Parquet file"),
            load_pyarrow().parquet.ParquetFile(self.path) as file,
        ):
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted)):
                yield batch.to_pylist()


class ArrowStream:
    """One file of a dataset that save_to_disk wrote."""

    form: Literal["table"] = "table"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> tuple[str, ...]:
        with self._open() as stream:
            names = list(stream.schema.names)
        check_column_names(names, self.path)
        return tuple(names)

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        return _numbered(self.path, self._batches(wanted))

    def _batches(self, wanted: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        with self._open() as stream:
            for batch in stream:
                narrow = batch.select(list(wanted))
                for start in range(0, narrow.num_rows, BATCH_ROWS):
                    yield narrow.slice(start, BATCH_ROWS).to_pylist()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        pyarrow = load_pyarrow()
        with (
            _arrow_problems(self.path, "an Arrow stream"),
            pyarrow.OSFile(str(self.path)) as file,  # not memory-mapped: a file that shrinks would kill the process
            pyarrow.ipc.open_stream(file) as stream,
        ):
            yield stream


def _numbered(path: Path, batches: Iterator[list[dict[str, Any]]]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for fields in batch:
            yield Row(f"{path}, row {number}", fields)
            number += 1


class Chain:
    """Several files of one format, read one after the other."""

    def __init__(self, open_file: Callable[[Path], Reader], paths: Sequence[Path]) -> None:
        self.paths = paths
        self.readers = [open_file(path) for path in paths]
        self.form = self.readers[0].form

    def columns(self) -> tuple[str, ...]:
        return self.readers[0].columns()

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        for reader, path in zip(self.readers, self.paths, strict=True):
            if self.form == "table" and (missing := [name for name in wanted if name not in reader.columns()]):
                first = self.paths[0].name
                problem = f"there is no column {missing[0]!r}, but {first} has it"
                raise InputError(problem, where=str(path), hint="give all files of a folder the same columns")
            yield from reader.rows(wanted)


# ------------------------------------------------------------------------------------------------------------- folders

FILE_READERS: dict[str, Callable[[Path], Reader]] = {
    ".parquet": Parquet,
    ".jsonl": JsonLines,
    ".csv": lambda path: Csv(path, delimiter=","),
}


def open_folder(folder: Path, split: str | None) -> Reader:
    """A save_to_disk folder with or without splits, or a folder of data files as on the hub."""
    if (folder / "dataset_dict.json").exists():
        splits = _json_object(folder / "dataset_dict.json").get("splits", [])
        return _open_dataset(folder / _choose_split(split, splits, folder), None)
    if (folder / "state.json").exists():
        return _open_dataset(folder, split)
    return _open_data_files(folder, split)


def _choose_split(split: str | None, splits: Sequence[str], folder: Path) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None:
        problem = f"the dataset has {len(splits)} splits: {', '.join(splits)}"
        raise UsageError(problem, where=str(folder), hint=f"choose one: --split {splits[0] if splits else 'NAME'}")
    if split not in splits:
        raise UsageError(f"there is no split {split!r}", where=str(folder), hint=did_you_mean(split, splits))
    return split


def _open_dataset(folder: Path, split: str | None) -> Reader:
    state = _json_object(folder / "state.json")
    if split is not None and split != state.get("_split"):
        hint = "leave --split out"
        raise UsageError(f"there is no split {split!r}: the dataset is not split", where=str(folder), hint=hint)
    if any(name.startswith("_indices") and value for name, value in state.items()):
        hint = "load it with the package datasets, call flatten_indices() and save it again"
        raise InputError("the dataset picks its rows by a separate file of indices", where=str(folder), hint=hint)
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    if not files:
        raise InputError("the dataset has no data files", where=str(folder), hint="save it again")
    return Chain(ArrowStream, files)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as problem:
        raise InputError(f"not valid JSON: {problem}", where=str(path), hint="save the dataset again") from None
    if not isinstance(content, dict):
        raise InputError("not a JSON object", where=str(path), hint="save the dataset again")
    return content


def _open_data_files(folder: Path, split: str | None) -> Reader:
    if split is not None:
        hint = "leave --split out, or name one of the folder's files as the input"
        raise UsageError("a split is asked for, but the folder is no dataset with splits", where=str(folder), hint=hint)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in FILE_READERS)
    suffixes = sorted({path.suffix.lower() for path in files})
    if not files:
        problem = f"the folder is no dataset, and no {', '.join(FILE_READERS)} file is in it"
        raise InputError(problem, where=str(folder), hint="name a file, or a folder that save_to_disk wrote")
    if len(suffixes) > 1:
        problem = f"the folder holds files of several formats: {', '.join(suffixes)}"
        raise InputError(problem, where=str(folder), hint="name one file, or keep one format in the folder")
    return Chain(FILE_READERS[suffixes[0]], files)
