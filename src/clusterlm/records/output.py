"""The output file: results in the order of the input, the same bytes whatever the order in which they finished."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from clusterlm.errors import MissingPackage, RunError, UsageError
from clusterlm.records.batch import output_line
from clusterlm.records.files import write_whole
from clusterlm.records.log import ResultLog
from clusterlm.records.request import Request, Result
from clusterlm.records.source import Source

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")

ROW_GROUP_ROWS = 4096

TABLE_TYPES = {"prompt_tokens": "int64", "completion_tokens": "int64", "seed": "int64", "sample": "int64"}
"""Of parquet columns; all others are text."""

PromptAs = Literal["text", "hash"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a request and its result become lines or table rows."""

    kind: Literal["plain", "openai"]
    prompt_response: bool
    prompt_as: PromptAs
    model_name: str

    def lines(self, request: Request, result: Result) -> Iterator[dict[str, Any]]:
        """JSON lines: one for each request, but for the two-column form."""
        if self.prompt_response:
            yield from self.table_rows(request, result, with_sample=False)
        elif self.kind == "openai":
            yield output_line(request, result, self.model_name)
        else:
            line: dict[str, Any] = {"id": result.id, **self._prompt(request), "prompt_tokens": result.prompt_tokens}
            if len(result.choices) > 1:
                line["choices"] = [_choice(choice) for choice in result.choices]
            else:
                line |= _choice(result.choices[0] if result.choices else None)
            yield {**line, "error": result.error}

    def table_rows(self, request: Request, result: Result, *, with_sample: bool) -> Iterator[dict[str, Any]]:
        """One for each choice; a failed request has one row, and none in the two-column form."""
        if self.prompt_response:
            text = _prompt_text(request)
            yield from ({"prompt": text, "response": choice.text} for choice in result.choices)
            return
        prompt = self._prompt(request)
        if "messages" in prompt:
            prompt = {"prompt": _prompt_text(request)}
        for sample, choice in enumerate(result.choices or [None]):
            row = {"id": result.id, **({"sample": sample} if with_sample else {}), **prompt}
            yield {**row, "prompt_tokens": result.prompt_tokens, **_choice(choice), "error": result.error}

    def _prompt(self, request: Request) -> dict[str, Any]:
        if self.prompt_as == "hash":
            return {"prompt_sha256": hashlib.sha256(_prompt_text(request).encode()).hexdigest()}
        return {"messages": request.messages} if request.messages is not None else {"prompt": request.prompt}


def check_output_path(path: Path) -> None:
    """UsageError or RunError unless a file of a known kind can be written there."""
    if path.suffix.lower() not in SUFFIXES:
        hint = f"known: {', '.join(SUFFIXES)}; or - for standard output"
        raise UsageError(f"unknown kind of output: {path.suffix or 'no suffix'}", where=str(path), hint=hint)
    if path.is_dir():
        raise UsageError("is a folder; the output is a file", where=str(path))
    folder = path.absolute().parent
    if not folder.is_dir():
        raise RunError("there is no such folder for the output", where=str(folder), hint=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError("you may not write in this folder", where=str(folder), hint="name an output elsewhere")


def write_output(
    path: Path | None,
    source: Source,
    log: ResultLog,
    *,
    prompt_response: bool = False,
    prompt_as: PromptAs = "text",
    model_name: str = "",
    stream: TextIO | None = None,
) -> None:
    """All results in the order of `source`, as the suffix of `path` says; JSON lines to `stream` where it is None."""
    form = Form(source.kind, prompt_response, prompt_as, model_name)
    pairs = _Pairs(source, log)
    if path is None:
        assert stream is not None
        for request, result in pairs:
            stream.writelines(f"{_json(line)}\n" for line in form.lines(request, result))
    elif path.suffix.lower() == ".jsonl":
        write_whole(path, lambda file: _write_lines(file, pairs, form))
    elif path.suffix.lower() == ".parquet":
        write_whole(path, lambda file: _write_parquet(file, pairs, form))
    else:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        write_whole(path, lambda file: _write_csv(file, pairs, form, delimiter))


class _Pairs:
    """Each request with its result, afresh at each iteration."""

    def __init__(self, source: Source, log: ResultLog) -> None:
        self._source = source
        self._log = log

    def __iter__(self) -> Iterator[tuple[Request, Result]]:
        for request in self._source:
            yield request, self._log.read(request.index)

    def have_samples(self) -> bool:
        return any(len(result.choices) > 1 for _, result in self)


def _write_lines(file: BinaryIO, pairs: _Pairs, form: Form) -> None:
    for request, result in pairs:
        file.writelines(f"{_json(line)}\n".encode() for line in form.lines(request, result))


def _write_csv(file: BinaryIO, pairs: _Pairs, form: Form, delimiter: str) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    with_sample = pairs.have_samples()
    writer.writerow(_columns(form, with_sample))
    for request, result in pairs:
        writer.writerows(row.values() for row in form.table_rows(request, result, with_sample=with_sample))
    text.detach()


def _write_parquet(file: BinaryIO, pairs: _Pairs, form: Form) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingPackage("a parquet file needs pyarrow", hint="pip install 'clusterlm[run]'") from None
    with_sample = pairs.have_samples()
    schema = pyarrow.schema([(name, TABLE_TYPES.get(name, "string")) for name in _columns(form, with_sample)])
    with parquet.ParquetWriter(file, schema) as writer:
        group: list[dict[str, Any]] = []
        for request, result in pairs:
            group += form.table_rows(request, result, with_sample=with_sample)
            if len(group) >= ROW_GROUP_ROWS:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                group = []
        writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _columns(form: Form, with_sample: bool) -> list[str]:
    if form.prompt_response:
        return ["prompt", "response"]
    prompt = "prompt" if form.prompt_as == "text" else "prompt_sha256"
    return ["id", *(["sample"] if with_sample else []), prompt, "prompt_tokens", *_choice(None), "error"]


def _choice(choice: Any) -> dict[str, Any]:
    names = ("text", "finish_reason", "completion_tokens", "seed")
    return {name: getattr(choice, name, None) for name in names}


def _prompt_text(request: Request) -> str:
    if request.messages is not None:
        return _json(request.messages)
    return request.prompt or ""


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
