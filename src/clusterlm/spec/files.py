"""Values of flags and run files, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from clusterlm.errors import InputError, UsageError, nearest
from clusterlm.spec.base import STANDARD_STREAM, TaskSpec

AnySpec = TypeVar("AnySpec", bound=TaskSpec)
PATHS = ("input", "output", "eval", "deepspeed_config", "accelerate_config")


def make_spec(kind: type[AnySpec], values: Mapping[str, Any], where: str | None = None) -> AnySpec:
    """The values checked; UsageError lists all that is wrong at once."""
    try:
        return kind(**values)
    except ValidationError as problem:
        lines = [_explain(error, kind.model_fields) for error in problem.errors()]
        raise UsageError("; ".join(lines), where=where) from None


def _explain(error: Any, known: Iterable[str]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        close = nearest(name, known)
        return f"there is no setting {name!r}" + (f" (did you mean {close!r}?)" if close else "")
    if not name:
        return str(error["msg"]).removeprefix("Value error, ")
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{name} = {error['input']!r:.80}: {message}"


def read_run_file(path: Path) -> dict[str, Any]:
    """The values of a run file; files and a model folder are meant from the run file's own folder."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("there is no such run file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path)) from None
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"this is not TOML: {problem}", where=str(path)) from None
    for name in PATHS:
        if isinstance(values.get(name), str) and values[name] != STANDARD_STREAM:
            values[name] = str(path.parent / Path(values[name]).expanduser())
    model = values.get("model")
    if isinstance(model, str) and (path.parent / model).is_dir():
        values["model"] = str(path.parent / model)
    return values
