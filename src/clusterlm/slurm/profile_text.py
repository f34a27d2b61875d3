"""A profile as the text of its file (clusters/NAME.toml). What is as by default is not written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from clusterlm.cluster.profile import Cluster

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
FIRST = ("title", "site")
LAST = ("other_sources", "unverified", "notes")


def profile_text(cluster: Cluster, remarks: Sequence[str] = ()) -> str:
    """TOML, with the remarks as comments above. cluster.read_cluster reads it back to the same value."""
    comments = [f"# {_comment(line)}" for remark in remarks for line in remark.splitlines()]
    return "\n".join([*comments, *_table((), cluster)]).lstrip("\n") + "\n"


def _table(place: tuple[str, ...], table: Any) -> Iterator[str]:
    """Its plain values, then the tables within it."""
    ordered = sorted(fields(table), key=lambda field: (field.name in LAST, field.name not in FIRST))
    said = [(field.name, getattr(table, field.name)) for field in ordered if _is_said(table, field)]
    if place:
        yield ""
        yield f"[{'.'.join(_key(part) for part in place)}]"
    yield from (f"{name} = {_value(value)}" for name, value in said if not _is_table(value))
    for name, value in said:
        if is_dataclass(value):
            yield from _table((*place, name), value)
        elif _is_table(value):
            for key, entry in value.items():
                yield from _table((*place, name, key), entry)


def _is_said(table: Any, field: Any) -> bool:
    value = getattr(table, field.name)
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    is_files_name = isinstance(table, Cluster) and field.name == "name"
    return not is_files_name and value is not None and value != default


def _is_table(value: Any) -> bool:
    """A table, or a dict of tables; a dict of plain values is written on one line."""
    return is_dataclass(value) or (isinstance(value, dict) and all(is_dataclass(entry) for entry in value.values()))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_value(entry)}' for key, entry in value.items())} }}"
    return _text(value)


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _text(name)


def _comment(line: str) -> str:
    """TOML allows no control characters in one."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _text(value: str) -> str:
    """A basic string. JSON escapes what TOML does, but for the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
