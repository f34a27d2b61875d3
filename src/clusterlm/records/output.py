"""The output file: results in the order of the input, the same bytes whatever the order in which they finished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from clusterlm.errors import MissingPackage, RunError, UsageError
from clusterlm.records import batch
from clusterlm.records.answers import PAIR_COLUMNS, PromptAs, Row, json_line, pair_rows, table_columns, table_rows
from clusterlm.records.files import write_whole
from clusterlm.records.log import ResultLog
from clusterlm.records.request import Request, Result
from clusterlm.records.sinks import CsvSink, JsonLinesSink, ParquetSink, Utf8
from clusterlm.records.source import Source

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")

DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class OutputSummary:
    """`rows`: lines or table rows written. A failed request has a row too, but in the form of bare pairs."""

    requests: int
    failed: int
    rows: int


def check_output_path(path: Path, input_path: Path | None = None) -> None:
    """UsageError or RunError unless an output file can be written there; asked before the work, not after it."""
    if input_path is not None and path.resolve().is_relative_to(input_path.resolve()):
        hint = "name another file: the input must stay as it is"
        raise UsageError("the output is the input, or a file of the input's folder", where=str(path), hint=hint)
    if path.suffix.lower() not in SUFFIXES:
        problem = f"an output cannot end in {path.suffix}" if path.suffix else "the output has no suffix"
        raise UsageError(problem, where=str(path), hint=f"accepted: {', '.join(SUFFIXES)}")
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise UsageError("the output is a folder", where=str(path), hint="name a file")
        if path.exists() and not path.is_file():
            raise UsageError("the output is not a regular file", where=str(path), hint="name another file")
        if not folder.is_dir():
            hint = f"make it first: mkdir -p '{folder}'"
            raise UsageError("the output's folder does not exist", where=str(folder), hint=hint)
    except OSError as problem:
        raise RunError(
            f"cannot be looked at: {problem.strerror}", where=str(path), hint="name another file"
        ) from problem
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise RunError("you may not write into this folder", where=str(folder), hint="name a file in another folder")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingPackage("writing Parquet needs the package pyarrow", hint="pip install 'clusterlm[run]'")


def write_output(
    path: Path | None,
    source: Source,
    log: ResultLog,
    *,
    model_name: str,
    prompt_response: bool = False,
    prompt_as: PromptAs = "text",
    stream: TextIO | None = None,
) -> OutputSummary:
    """All results in the order of `source`, in the format that the suffix says; JSON lines to `stream` without a path.

    Columns `prompt` and `response` alone with `prompt_response`; the prompt's sha256 instead of it with `prompt_as`
    "hash"; a source of OpenAI batch lines gives such lines. RunError where results are missing or of another input.
    """
    if prompt_response and prompt_as == "hash":
        problem = "pairs of prompt and response are asked for, and prompts as their hash"
        raise UsageError(problem, hint="leave out --prompt-response or --prompt-as hash")
    records = partial(_records, source, log)
    if path is None:
        assert stream is not None, "without a path there must be a stream"
        return _write(
            records(), _line_form(source, model_name, prompt_response, prompt_as), JsonLinesSink(stream).write
        )
    check_output_path(path, source.path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        form = _line_form(source, model_name, prompt_response, prompt_as)
        return write_whole(path, lambda file: _write(records(), form, JsonLinesSink(Utf8(file)).write))
    form = pair_rows if prompt_response else partial(table_rows, prompt_as=prompt_as)
    with_sample = log.most_choices > 1
    columns = PAIR_COLUMNS if prompt_response else table_columns(prompt_as=prompt_as, with_sample=with_sample)
    return write_whole(path, lambda file: _write_table(file, suffix, columns, records(), form))


Form = Callable[[Request, Result], Iterator[Row]]


def _line_form(source: Source, model_name: str, prompt_response: bool, prompt_as: PromptAs) -> Form:
    if prompt_response:
        return pair_rows
    if source.kind == "openai":
        return lambda request, result: iter([batch.output_line(request, result, model_name)])
    return lambda request, result: iter([json_line(request, result, prompt_as)])


def _write_table(
    file: BinaryIO, suffix: str, columns: tuple[str, ...], records: Iterator[tuple[Request, Result]], form: Form
) -> OutputSummary:
    if suffix == ".parquet":
        with ParquetSink(file, columns) as sink:
            return _write(records, form, sink.write)
    return _write(records, form, CsvSink(Utf8(file), columns, delimiter=DELIMITERS[suffix]).write)


def _write(
    records: Iterator[tuple[Request, Result]], form: Form, write_row: Callable[[Mapping[str, Any]], None]
) -> OutputSummary:
    requests = failed = rows = 0
    for request, result in records:
        requests += 1
        failed += result.error is not None
        for row in form(request, result):
            write_row(row)
            rows += 1
    return OutputSummary(requests, failed, rows)


def _records(source: Source, log: ResultLog) -> Iterator[tuple[Request, Result]]:
    """Every request with its own result; RunError unless the log answers exactly this input."""
    hint = "give the input back as it was, or begin anew with --restart"
    count = 0
    for request in source:
        result = log.read(request.index)
        if result.payload_hash != request.payload_hash:
            problem = f"the request {request.id!r} was changed after it was answered"
            raise RunError(problem, where=str(source.path), hint=hint)
        yield request, result
        count += 1
    if count != len(log):
        problem = f"there are {len(log):,} results, but only {count:,} requests are left in the input"
        raise RunError(problem, where=str(source.path), hint=hint)
