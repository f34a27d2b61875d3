"""The keys of both files, as the libraries of `source` know them: the login node has not to load them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from clusterlm.errors import nearest
from clusterlm.spec.own_strategy.value import AUTO


@cache
def known_keys() -> Mapping[str, Any]:
    return dict(json.loads(files(__package__).joinpath("keys.json").read_bytes()))


def keys_of(section: str) -> list[str]:
    return list(known_keys()[section])


def wrong_keys(content: Mapping[str, Any], section: str, path: str = "") -> Iterator[str]:
    """A problem for each key that has no meaning, or a value of another kind; `path` stands before its name."""
    known, kinds = keys_of(section), known_keys()[section]
    removed = known_keys().get(f"{section}.removed", ())
    for name, value in content.items():
        close = nearest(name, known)
        guess = f" (did you mean {path + close!r}?)" if close else ""
        if name in known:
            if isinstance(kinds, dict) and value != AUTO and not _is_of(kinds[name], value):
                yield f"{path}{name} = {value!r}: is a {kinds[name]}"
        elif name in removed:
            yield f"{path}{name}: is no more in {known_keys()['source']}{guess}"
        else:
            yield f"{path}{name}: there is no such key{guess or _all(known)}"


def _is_of(kind: str, value: Any) -> bool:
    if kind == "truth value":
        return isinstance(value, bool)
    return kind != "number" or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _all(known: list[str]) -> str:
    """Where they are few enough to be read."""
    return f"; there are: {', '.join(known)}" if len(known) <= 20 else ""
