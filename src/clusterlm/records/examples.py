"""The examples that a model learns from: texts, prompts with their completions, or conversations."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from clusterlm.errors import InputError, UsageError, nearest
from clusterlm.records.payload import BadRow, checked_messages, checked_prompt
from clusterlm.records.prompts import check_known, parse_template, template_payload
from clusterlm.records.request import Message
from clusterlm.records.row import Reader, Row
from clusterlm.records.source import open_reader, unreadable

Form = Literal["text", "completion", "messages"]
FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
"""By the columns that a file must have, the surest sign first."""
SHOWN_BAD_ROWS = 3
SHOWN_PROBLEMS = 3
ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Example:
    """One row that can be learned; of `text`, `completion` and `messages` one is set, `prompt` beside a completion."""

    index: int
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: Sequence[Message] | None = None

    @property
    def characters(self) -> int:
        if self.messages is not None:
            return sum(len(message["content"]) for message in self.messages)
        return len(self.text or "") + len(self.prompt or "") + len(self.completion or "")


@dataclass(frozen=True)
class ExamplesSummary:
    """`rows` = `usable` + the sum of `unusable`, which counts rows by what is wrong with them."""

    rows: int
    usable: int
    characters: int
    """Of the usable ones."""
    digest: str
    unusable: Mapping[str, int] = field(default_factory=dict)
    first_unusable: tuple[str, ...] = ()
    """"place: problem"."""

    def lines(self) -> list[str]:
        """What the user should know of the rows that are left out."""
        if not self.unusable:
            return []
        count = self.rows - self.usable
        return [f"{count:,} of {self.rows:,} rows are left out: {_counted(self.unusable)}", *self.first_unusable]


class Examples:
    """Examples in the order of the file; each pass reads it anew and holds one row at a time."""

    def __init__(
        self,
        path: Path,
        reader: Reader,
        form: Form,
        columns: Sequence[str],
        example_of: Callable[[int, Mapping[str, Any]], Example],
    ) -> None:
        self.path = path
        self.form = form
        self._reader = reader
        self._columns = columns
        self._example_of = example_of

    def __iter__(self) -> Iterator[Example]:
        """Those that can be used; what is wrong with the others `check` counts."""
        for _, found in self._rows():
            if isinstance(found, Example):
                yield found

    def check(self) -> ExamplesSummary:
        """Reads everything once; InputError where nothing of it can be learned."""
        digest = hashlib.sha256()
        problems: Counter[str] = Counter()
        first: list[str] = []
        usable = characters = 0
        for place, found in self._rows():
            if isinstance(found, Example):
                content = json.dumps([found.text, found.prompt, found.completion, found.messages])
                digest.update(content.encode())
                usable += 1
                characters += found.characters
                continue
            problems[found] += 1
            if len(first) < SHOWN_BAD_ROWS:
                first.append(f"{place}: {found}")
        summary = ExamplesSummary(
            usable + problems.total(), usable, characters, digest.hexdigest(), dict(problems), tuple(first)
        )
        if not usable:
            raise self._nothing_usable(summary)
        return summary

    def _rows(self) -> Iterator[tuple[str, Example | str]]:
        """The place of each row, with its example or what is wrong with it."""
        try:
            for index, row in enumerate(self._reader.rows(self._columns)):
                yield row.place, self._example(index, row)
        except OSError as problem:
            raise unreadable(self.path, problem) from problem

    def _example(self, index: int, row: Row) -> Example | str:
        if row.error is not None:
            return row.error
        try:
            return self._example_of(index, row.fields)
        except BadRow as problem:
            return str(problem)

    def _nothing_usable(self, summary: ExamplesSummary) -> InputError:
        if not summary.rows:
            return InputError("there is no row in it", where=str(self.path))
        names = ", ".join(self._reader.columns())
        return InputError(
            f"none of its {summary.rows:,} rows can be learned: {_counted(summary.unusable)}",
            where=str(self.path),
            hint=f"--column NAME or --template says what the text is; the columns are: {names}",
        )


def _counted(problems: Mapping[str, int]) -> str:
    """The most frequent ones, with how many rows have each."""
    ordered = sorted(problems.items(), key=lambda item: -item[1])
    said = [f"{count:,} x {problem}" for problem, count in ordered[:SHOWN_PROBLEMS]]
    return "; ".join([*said, *(["..."] if len(ordered) > SHOWN_PROBLEMS else [])])


def open_examples(
    path: Path,
    *,
    column: str | None = None,
    template: str | None = None,
    whole_file: bool = False,
    split: str | None = None,
) -> Examples:
    """The examples in a file or dataset folder; InputError or UsageError where it cannot hold any."""
    try:
        reader = open_reader(path, column=column, whole_file=whole_file, split=split)
        form, columns, example_of = _choose(reader, str(path), column, template)
    except OSError as problem:
        raise unreadable(path, problem) from problem
    return Examples(path, reader, form, columns, example_of)


Rule = tuple[Form, tuple[str, ...], Callable[[int, Mapping[str, Any]], Example]]


def _choose(reader: Reader, where: str, column: str | None, template: str | None) -> Rule:
    if column is not None and template is not None:
        problem = f"column {column!r} and template {template!r} are both given, and each says what the text is"
        raise UsageError(problem, where=where, hint=f"put {{{column}}} into the template, or leave one of them out")
    columns = reader.columns()
    if template is not None:
        parts = parse_template(template)
        names = tuple(name for _, name in parts if name is not None)
        for name in names:
            check_known(name, "column for the template's field", columns, where)
        return "text", names, lambda index, fields: Example(index, text=template_payload(parts, fields).prompt)
    if column is not None:
        check_known(column, "column", columns, where)
        return _column_rule(column, reader)
    for form, wanted in FORMS.items():
        if set(wanted) <= set(columns):
            return form, wanted, partial(_of_form, form)
    raise _no_form(reader, columns, where)


def _no_form(reader: Reader, columns: Sequence[str], where: str) -> UsageError:
    wanted = "text, nor prompt and completion, nor messages"
    problem = f"there is neither {wanted}; the columns are: {', '.join(columns)}"
    first = next(iter(reader.rows(columns)), None)
    texts = [name for name in columns if first is not None and _could_be_learned(first.fields.get(name))]
    if not texts:
        hint = "a file of labels alone teaches a model no text; name one that holds the texts beside them"
        return UsageError(f"{problem}; and none of them holds text", where=where, hint=hint)
    close = next((near for name in ("text", "messages") if (near := nearest(name, texts))), None)
    hint = f"say which one holds the text: --column {close or (texts[0] if len(texts) == 1 else 'NAME')}"
    return UsageError(problem, where=where, hint=f"{hint}, or give a --template")


def _could_be_learned(value: object) -> bool:
    if isinstance(value, list):
        return True
    return isinstance(value, str) and not value.strip().replace(".", "", 1).lstrip("-").isdigit()


def _column_rule(column: str, reader: Reader) -> Rule:
    """What its first row holds says whether it is a text or a conversation."""
    first = next(iter(reader.rows((column,))), None)
    if first is not None and isinstance(first.fields.get(column), list):
        return "messages", (column,), lambda index, fields: _conversation(index, column, fields.get(column))
    return "text", (column,), lambda index, fields: Example(index, text=_text(column, fields.get(column)))


def _of_form(form: Form, index: int, fields: Mapping[str, Any]) -> Example:
    if form == "messages":
        return _conversation(index, "messages", fields.get("messages"))
    if form == "text":
        return Example(index, text=_text("text", fields.get("text")))
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        # Two halves of one conversation, as TRL's data sets have them.
        return _conversation(index, "prompt and completion", [*prompt, *completion])
    return Example(index, prompt=_text("prompt", prompt), completion=_text("completion", completion))


def _text(name: str, value: object) -> str:
    text = checked_prompt(name, value)
    if not text.strip():
        raise BadRow(f"{name} is blank")
    return text


def _conversation(index: int, name: str, value: object) -> Example:
    messages = checked_messages(name, value)
    if all(message["role"] != ASSISTANT for message in messages):
        raise BadRow(f"{name} has no turn of the {ASSISTANT}, from which the model would learn")
    return Example(index, messages=messages)
