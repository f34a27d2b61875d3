"""The file of requests: opened by its suffix, checked as a whole, read in order as often as wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import ClusterlmError, InputError, UsageError, nearest
from clusterlm.records.formats import Csv, JsonLines, JsonList, TextLines
from clusterlm.records.payload import BadRow, Payload
from clusterlm.records.prompts import Kind, Rule, choose_rule
from clusterlm.records.request import Request
from clusterlm.records.row import Reader, Row, nothing_to_read
from clusterlm.records.tables import Parquet, open_folder

READERS: dict[str, Callable[[Path], Reader]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".json": JsonList,
    ".csv": lambda path: Csv(path, delimiter=","),
    ".tsv": lambda path: Csv(path, delimiter="\t"),
    ".parquet": Parquet,
}

SHOWN_BAD_ROWS = 3


@dataclass(frozen=True)
class SourceSummary:
    """`digest`: sha256 over all requests in order. `first_bad_rows`: "place: problem" of the first few bad rows."""

    count: int
    digest: str
    bad_rows: int
    first_bad_rows: tuple[str, ...]


class Source:
    """Requests in the order of the input. A row's id is its `id` or `custom_id`, else its index, counted from 0.

    Each pass reads the input anew and holds one row at a time. Rows that cannot be used are requests with an error.
    """

    def __init__(self, path: Path, reader: Reader, rule: Rule) -> None:
        self.path = path
        self._reader = reader
        self._rule = rule
        known = () if reader.form == "objects" else reader.columns()
        self._wanted = (*rule.columns, *(name for name in rule.id_columns if name in known))

    @property
    def kind(self) -> Kind:
        """ "openai": every row is a line of an OpenAI batch file, and the output can be one too."""
        return self._rule.kind

    def __iter__(self) -> Iterator[Request]:
        for _, request in self._placed_requests():
            yield request

    def check(self) -> SourceSummary:
        """Reads everything once; InputError for what is wrong with the file as a whole, such as two equal ids."""
        digest = hashlib.sha256()
        ids: set[str] = set()
        bad_rows = 0
        first_bad_rows: list[str] = []
        for place, request in self._placed_requests():
            if request.id in ids:
                raise self._same_id(request.id)
            ids.add(request.id)
            digest.update(request.payload_hash.encode())
            if request.error is not None:
                bad_rows += 1
                if bad_rows <= SHOWN_BAD_ROWS:
                    first_bad_rows.append(f"{place}: {request.error}")
        return SourceSummary(len(ids), digest.hexdigest(), bad_rows, tuple(first_bad_rows))

    def _placed_requests(self) -> Iterator[tuple[str, Request]]:
        try:
            for index, row in enumerate(self._reader.rows(self._wanted)):
                yield row.place, self._request(index, row)
        except OSError as problem:
            raise unreadable(self.path, problem) from problem

    def _request(self, index: int, row: Row) -> Request:
        request_id = self._id(index, row.fields)
        if row.error is not None:
            return Request(index, request_id, error=row.error)
        try:
            payload: Payload = self._rule.payload_of(row.fields)
        except BadRow as problem:
            return Request(index, request_id, error=str(problem))
        return Request(index, request_id, payload.prompt, payload.messages, payload.options)

    def _id(self, index: int, fields: Mapping[str, Any]) -> str:
        given = (fields.get(name) for name in self._rule.id_columns)
        request_id = next((str(value) for value in given if value is not None and value != ""), str(index))
        # Half a surrogate pair cannot be written to any output; as \udc80 it still tells the rows apart.
        return request_id.encode(errors="backslashreplace").decode()

    def _same_id(self, request_id: str) -> InputError:
        """Reads again for the first of the two rows: a good file does not pay for remembering where each id stands."""
        places = [place for place, request in self._placed_requests() if request.id == request_id][:2]
        hint = "give each row its own id, or leave out the id, then each row's number is its id"
        return InputError(
            f"the id {request_id!r} is there twice: {' and '.join(places)}", where=str(self.path), hint=hint
        )


def open_source(
    path: Path,
    *,
    column: str | None = None,
    template: str | None = None,
    whole_file: bool = False,
    split: str | None = None,
) -> Source:
    """The requests in a file or dataset folder; InputError or UsageError when it cannot be one.

    `column` names the prompt's column and `template` builds the prompt from columns; `whole_file` takes a .txt file
    as one prompt; `split` chooses a part of a dataset folder. An option that the input has no use for is an error.
    """
    try:
        reader = open_reader(path, column=column, whole_file=whole_file, split=split)
        source = Source(path, reader, choose_rule(reader, str(path), column, template))
        if next(iter(source), None) is None:
            raise nothing_to_read(path)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    return source


def open_reader(path: Path, *, column: str | None, whole_file: bool, split: str | None) -> Reader:
    """By the suffix; InputError where the file cannot be read, UsageError for an option that it has no use for."""
    suffix = path.suffix.lower()
    is_folder = path.is_dir()
    if not path.exists():
        raise _missing(path)
    if whole_file and suffix != ".txt":
        raise _no_use("whole_file", "only a .txt file can be one prompt", path)
    if is_folder:
        return open_folder(path, split)
    if split is not None:
        raise _no_use("split", "only a dataset folder has splits", path)
    if suffix != ".txt" and suffix not in READERS:
        problem = (
            f"files ending in {suffix} cannot be read" if suffix else "the file has no suffix that says its format"
        )
        accepted = f"accepted: .txt, {', '.join(READERS)}, and dataset folders"
        raise InputError(problem, where=str(path), hint=accepted)
    if not path.is_file():
        hint = "it is read several times: write it to a file first"
        raise InputError("not a regular file", where=str(path), hint=hint)
    if suffix != ".txt":
        return READERS[suffix](path)
    if column is not None:
        raise _no_use("column", "a .txt file has no columns", path)
    return TextLines(path, whole_file=whole_file)


def _no_use(option: str, reason: str, path: Path) -> UsageError:
    flag = f"--{option.replace('_', '-')}"
    return UsageError(f"{option} does not apply: {reason}", where=str(path), hint=f"leave out {flag}")


def _missing(path: Path) -> ClusterlmError:
    if not path.parent.is_dir():
        hint = f"the folder {path.parent} does not exist either"
        return InputError("there is no such file", where=str(path), hint=hint)
    close = nearest(path.name, [neighbour.name for neighbour in path.parent.iterdir()])
    hint = f"did you mean {str(path.parent / close)!r}?" if close else f"look what there is: ls {path.parent}"
    return InputError("there is no such file", where=str(path), hint=hint)


def unreadable(path: Path, problem: OSError) -> InputError:
    where = str(problem.filename or path)
    hint = "ask its owner for the right to read it" if isinstance(problem, PermissionError) else "look at the disk"
    return InputError(f"cannot be read: {problem.strerror or problem}", where=where, hint=hint)
