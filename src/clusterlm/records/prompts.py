"""Which part of a row is its prompt: a column, a template over columns, or what the file's own form says."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from clusterlm.errors import InputError, UsageError, did_you_mean, nearest
from clusterlm.records import batch
from clusterlm.records.payload import BadRow, Payload, checked_messages, checked_prompt, kind_of
from clusterlm.records.row import Reader, Row

Kind = Literal["plain", "openai"]

ID_COLUMNS = ("id", "custom_id")


@dataclass(frozen=True)
class Rule:
    """How one file's rows become payloads. `payload_of` raises BadRow; `columns` are all that it looks at."""

    columns: tuple[str, ...]
    payload_of: Callable[[Mapping[str, Any]], Payload]
    id_columns: tuple[str, ...] = ID_COLUMNS
    kind: Kind = "plain"


def choose_rule(reader: Reader, where: str, column: str | None, template: str | None) -> Rule:
    """The rule that the user named, else the one that the file's columns or first object call for."""
    if column is not None and template is not None:
        problem = f"column {column!r} and template {template!r} are both given, and each says what the prompt is"
        raise UsageError(problem, where=where, hint=f"put {{{column}}} into the template, or leave one of them out")
    columns = reader.columns()
    if template is not None:
        return _template_rule(template, columns, where)
    if column is not None:
        check_known(column, "column", columns, where)
        return Rule((column,), partial(_column_payload, column))
    if reader.form == "lines":
        return Rule(("prompt",), partial(_column_payload, "prompt"))
    if reader.form == "objects":
        return _object_rule(next(reader.rows(())), where)
    return _table_rule(columns, where)


def check_known(name: str, what: str, columns: Sequence[str], where: str) -> None:
    """UsageError with the nearest name."""
    if name not in columns:
        raise UsageError(f"there is no {what} {name!r}", where=where, hint=did_you_mean(name, columns))


def _column_payload(column: str, fields: Mapping[str, Any]) -> Payload:
    """A text is a prompt, a list is a conversation."""
    if column not in fields:
        raise BadRow(f"there is no {column!r}")
    value = fields[column]
    if isinstance(value, list):
        return Payload(messages=checked_messages(column, value))
    return Payload(prompt=checked_prompt(column, value))


# ----------------------------------------------------------------------------------------- neither column nor template


def _table_rule(columns: Sequence[str], where: str) -> Rule:
    found = [name for name in ("prompt", "text") if name in columns]
    if len(found) != 1:
        which = f"{' and '.join(found)} could each be the prompt" if found else "no column is named prompt or text"
        raise UsageError(f"{which}; the columns are: {', '.join(columns)}", where=where, hint=_name_a_column(columns))
    return Rule((found[0],), partial(_column_payload, found[0]))


def _object_rule(first: Row, where: str) -> Rule:
    if first.error is not None:
        raise InputError(first.error, where=first.place, hint='each row is an object such as {"prompt": "..."}')
    if batch.is_batch_line(first.fields):
        return Rule(("body",), batch.payload_of, id_columns=("custom_id", "id"), kind="openai")
    if "prompt" not in first.fields and "messages" not in first.fields:
        keys = ", ".join(first.fields) or "nothing"
        problem = f"the first row has neither prompt nor messages; it has: {keys}"
        raise InputError(problem, where=first.place, hint=_name_a_column(list(first.fields)))
    return Rule(("prompt", "messages"), _object_payload)


def _name_a_column(columns: Sequence[str]) -> str:
    likely = next((name for name in ("prompt", "text", "messages") if name in columns), nearest("prompt", columns))
    return f"say which one is the prompt, for example --column {likely or 'NAME'}, or give a --template"


def _object_payload(fields: Mapping[str, Any]) -> Payload:
    if batch.is_batch_line(fields):
        raise BadRow("this is an OpenAI batch line, but the file's first row is none")
    # Some exporters write every key and null in those that do not apply.
    found = [name for name in ("prompt", "messages") if fields.get(name) is not None]
    if len(found) == 2:
        raise BadRow("there are both prompt and messages; one is wanted")
    if found == ["messages"]:
        return Payload(messages=checked_messages("messages", fields["messages"]))
    if "prompt" in fields:
        return Payload(prompt=checked_prompt("prompt", fields["prompt"]))
    raise BadRow("messages is null" if "messages" in fields else "there is neither prompt nor messages")


# ------------------------------------------------------------------------------------------------------------ template


def _template_rule(template: str, columns: Sequence[str], where: str) -> Rule:
    parts = parse_template(template)
    names = tuple(name for _, name in parts if name is not None)
    for name in names:
        check_known(name, "column for the template's field", columns, where)
    return Rule(names, partial(template_payload, parts))


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Pairs of a literal text and the column after it. Nothing but {name}, {{ and }} is allowed, so nothing can run."""
    try:
        fields = list(string.Formatter().parse(template))
    except ValueError as problem:
        hint = "write a brace that is meant as a brace twice: {{ or }}"
        raise UsageError(f"template {template!r}: {problem}", hint=hint) from None
    for _, name, form, conversion in fields:
        if name == "" or form or conversion:
            wrong = f"template {template!r}: only the name of a column may stand between braces"
            raise UsageError(wrong, hint="write {name}; and {{ or }} for a brace that is meant as a brace")
    if all(name is None for _, name, _, _ in fields):
        nothing = f"template {template!r} names no column: every prompt would be the same"
        raise UsageError(nothing, hint="put the name of a column between braces, such as {text}")
    return [(literal, name) for literal, name, _, _ in fields]


def template_payload(parts: Sequence[tuple[str, str | None]], fields: Mapping[str, Any]) -> Payload:
    prompt = "".join(literal + ("" if name is None else _field_text(name, fields)) for literal, name in parts)
    return Payload(prompt=checked_prompt("the prompt", prompt))


def _field_text(name: str, fields: Mapping[str, Any]) -> str:
    if name not in fields:
        raise BadRow(f"there is no {name!r}")
    value = fields[name]
    if value is None or isinstance(value, bytes | list | tuple | Mapping):
        raise BadRow(f"{name} is {kind_of(value)}; text or a number is wanted")
    return str(value)
