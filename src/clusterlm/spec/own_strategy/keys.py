"""The keys of both files, as the libraries of `source` know them: the login node has not to load them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from clusterlm.errors import nearest


@cache
def known_keys() -> Mapping[str, Any]:
    return dict(json.loads(files(__package__).joinpath("keys.json").read_bytes()))


def keys_of(section: str) -> list[str]:
    return list(known_keys()[section])


def unknown_keys(content: Mapping[str, Any], section: str, path: str = "") -> Iterator[str]:
    """A problem for each key that has no meaning, `path` before its name."""
    known = keys_of(section)
    removed = known_keys().get(f"{section}.removed", ())
    for name in content:
        if name in known:
            continue
        close = nearest(name, known)
        guess = f" (did you mean {path + close!r}?)" if close else ""
        if name in removed:
            yield f"{path}{name}: is no more in {known_keys()['source']}{guess}"
        else:
            yield f"{path}{name}: there is no such key{guess or _all(known)}"


def _all(known: list[str]) -> str:
    """Where they are few enough to be read."""
    return f"; there are: {', '.join(known)}" if len(known) <= 20 else ""
