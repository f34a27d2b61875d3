"""The formats that answers are written in: JSON lines, CSV, Parquet. Each takes rows one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol, Self

from clusterlm.records.tables import load_pyarrow

ROW_GROUP_ROWS = 4096
"""Rows of a Parquet row group: all that is in memory at one time."""

WHOLE_NUMBERS = ("sample", "prompt_tokens", "completion_tokens", "seed")
"""Columns of 64-bit integers; all others are text."""


class TextSink(Protocol):
    """As much of a text file as is needed here."""

    def write(self, text: str, /) -> object: ...


class Utf8:
    """Text into a binary file; unlike io.TextIOWrapper it leaves the file open, and buffers nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str, /) -> None:
        self._file.write(text.encode())


class JsonLinesSink:
    def __init__(self, file: TextSink) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


class CsvSink:
    """Every text in quotes: a lone carriage return outside of quotes would end the row for many readers."""

    def __init__(self, file: TextSink, columns: Sequence[str], *, delimiter: str) -> None:
        self._columns = columns
        self._writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        self._writer.writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow([row[column] for column in self._columns])


class ParquetSink:
    """A context: the file is complete when it is left without an exception."""

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        self._pyarrow = load_pyarrow()
        types = [self._pyarrow.int64() if name in WHOLE_NUMBERS else self._pyarrow.string() for name in columns]
        self._schema = self._pyarrow.schema(list(zip(columns, types, strict=True)))
        self._writer = self._pyarrow.parquet.ParquetWriter(file, self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP_ROWS:
            self._write_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *problem: object) -> None:
        try:
            if kind is None and self._rows:
                self._write_group()
        finally:
            self._close(failed=kind is not None)

    def _write_group(self) -> None:
        rows = [{name: row[name] for name in self._schema.names} for row in self._rows]
        self._writer.write_table(self._pyarrow.Table.from_pylist(rows, schema=self._schema))
        self._rows.clear()

    def _close(self, *, failed: bool) -> None:
        try:
            self._writer.close()
        except (OSError, ValueError):
            if not failed:
                raise  # else the first problem is the one to report
