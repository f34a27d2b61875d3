"""One reader for each format of text files: lines, CSV, JSON lines, a JSON list."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from clusterlm.errors import InputError
from clusterlm.records.payload import kind_of
from clusterlm.records.row import Row, check_column_names, nothing_to_read
from clusterlm.records.text import text_chunks, text_lines

LONGEST_CSV_FIELD = 2**31 - 1
"""Characters. The csv module's own limit of 131,072 is shorter than many documents."""


class TextLines:
    """A prompt per line, blank lines left out; or the whole file as one prompt, without the end of its last line."""

    form: Literal["lines"] = "lines"

    def __init__(self, path: Path, *, whole_file: bool) -> None:
        self.path = path
        self.whole_file = whole_file

    def columns(self) -> tuple[str, ...]:
        """Both name the line."""
        return ("text", "prompt")

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        for number, line in enumerate(self._texts(), 1):
            if line.strip():
                yield Row(f"{self.path}:{number}", {"text": line, "prompt": line})

    def _texts(self) -> Iterator[str]:
        if self.whole_file:
            yield _without_line_end("".join(text_chunks(self.path)).replace("\r\n", "\n"))
        else:
            yield from map(_without_line_end, text_lines(self.path))


def _without_line_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


class Csv:
    """A header row, then rows of as many fields."""

    form: Literal["table"] = "table"

    def __init__(self, path: Path, *, delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter

    def columns(self) -> tuple[str, ...]:
        for _, header in self._records():
            check_column_names(header, self.path)
            return tuple(header)
        raise nothing_to_read(self.path)

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        records = self._records()
        _, header = next(records, (0, list[str]()))
        for number, record in records:
            error = None
            if len(record) != len(header):
                error = f"the row has {len(record)} fields, the header has {len(header)}"
            yield Row(f"{self.path}:{number}", dict(zip(header, record, strict=False)), error)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record that is no blank line, with the number of the line where it begins."""
        csv.field_size_limit(LONGEST_CSV_FIELD)
        # Not strict, a quote that is never closed would take all rows after it into one field.
        reader = csv.reader(text_lines(self.path), delimiter=self.delimiter, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as problem:
                hint = 'a field with quotes or line breaks stands in quotes, and each quote within is doubled: ""'
                raise InputError(f"not valid CSV: {problem}", where=f"{self.path}:{number}", hint=hint) from None
            if record:
                yield number, record


class Objects:
    """What JSON lines and JSON lists have in common; `_values` yields each value with its place."""

    form: Literal["objects"] = "objects"

    def __init__(self, path: Path) -> None:
        self.path = path

    def columns(self) -> tuple[str, ...]:
        for row in self.rows(()):
            return tuple(row.fields)
        raise nothing_to_read(self.path)

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        for place, value in self._values():
            if isinstance(value, Mapping):
                yield Row(place, value)
            else:
                yield Row(place, error=f"the row is {kind_of(value)}; an object is wanted")

    def _values(self) -> Iterator[tuple[str, Any]]:
        raise NotImplementedError


class JsonLines(Objects):
    """One JSON object per line; blank lines are left out."""

    def _values(self) -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(text_lines(self.path), 1):
            if not line.strip():
                continue
            place = f"{self.path}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as problem:
                column = f" (column {problem.colno})" if isinstance(problem, json.JSONDecodeError) else ""
                hint = "each line must be one whole JSON object; a file that is one JSON list is named .json"
                raise InputError(f"not valid JSON: {json_problem(problem)}{column}", where=place, hint=hint) from None
            yield place, value


class JsonList(Objects):
    """One JSON list of objects, decoded object by object so that it may be larger than memory."""

    def _values(self) -> Iterator[tuple[str, Any]]:
        text = _JsonText(self.path)
        if not text.next_character():
            raise nothing_to_read(self.path)
        if text.next_character() != "[":
            raise text.broken("a list is wanted")
        text.skip()
        while text.next_character() != "]":
            place = text.place()
            yield place, text.value()
            if text.next_character() == ",":
                text.skip()
                if text.next_character() == "]":
                    raise text.broken("a comma before the end of the list")
            elif text.next_character() != "]":
                raise text.broken("a comma or the end of the list is wanted")
        text.skip()
        if text.next_character():
            raise text.broken("text after the end of the list")


class _JsonText:
    """A place in a long JSON text, of which only the part around it is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks = text_chunks(path)
        self.text = ""
        self.position = 0
        self.counted = 0  # characters of `text` whose line ends are in `line`
        self.line = 1

    def next_character(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            while self.position < len(self.text):
                if self.text[self.position] not in " \t\r\n":
                    return self.text[self.position]
                self.position += 1
            if not self._read_more():
                return ""

    def skip(self) -> None:
        self.position += 1

    def value(self) -> Any:
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.position)
            except (ValueError, RecursionError) as problem:
                # A text that is cut off looks like a broken one: only the end of the file tells them apart.
                if not self._read_more():
                    self.position = getattr(problem, "pos", self.position)
                    raise self.broken(json_problem(problem)) from None
                continue
            if end == len(self.text) and self._read_more():
                continue  # a number may go on in the next chunk
            self.position = end
            return value

    def place(self) -> str:
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return f"{self.path}:{self.line}"

    def broken(self, problem: str) -> InputError:
        return InputError(f"not a JSON list: {problem}", where=self.place(), hint=HINT_JSON_LIST)

    def _read_more(self) -> bool:
        """At least doubles what is not yet used, so that a long value is tried few times; False at the end."""
        rest_length = len(self.text) - self.position
        pieces: list[str] = []
        length = 0
        for chunk in self.chunks:
            pieces.append(chunk)
            length += len(chunk)
            if length > rest_length:
                break
        if not length:
            return False
        self.place()
        self.text = "".join([self.text[self.position :], *pieces])
        self.position = self.counted = 0
        return True


HINT_JSON_LIST = 'write [{"prompt": "..."}, ...]; a file with one object per line is named .jsonl'


def json_problem(problem: Exception) -> str:
    """What json.loads raised, in words and without the place."""
    if isinstance(problem, RecursionError):
        return "lists or objects are nested too deeply"
    return problem.msg if isinstance(problem, json.JSONDecodeError) else str(problem)
