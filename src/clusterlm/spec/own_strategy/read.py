"""The content of a user's own file, as a run keeps it: what it refers to is in it, so that no other file is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clusterlm.errors import InputError, UsageError
from clusterlm.spec.own_strategy.of_accelerate import DEEPSPEED_FILE, of_accelerate
from clusterlm.spec.own_strategy.of_deepspeed import of_deepspeed
from clusterlm.spec.own_strategy.value import OwnStrategy
from clusterlm.spec.train import TrainSpec

Content = dict[str, Any]
OF_SETTING = {"deepspeed_config": of_deepspeed, "accelerate_config": of_accelerate}


def own_strategy(spec: TrainSpec) -> OwnStrategy | None:
    """None where the user has none. UsageError for all that is wrong with it, whatever else is asked for."""
    for setting, understand in OF_SETTING.items():
        if (given := getattr(spec, setting)) is not None:
            where = given if isinstance(given, str) else f"--{setting.replace('_', '-')}"
            return understand(content_of(setting, given), where)
    return None


def content_of(setting: str, given: str | Content) -> Content:
    """Of the file; a file of DeepSpeed that accelerate's names stands in its place."""
    if not isinstance(given, str):
        return _plain(given, setting)
    path = Path(given).expanduser()
    is_json = setting == "deepspeed_config" or path.suffix == ".json"
    content = _read(path, _of_json if is_json else _of_yaml)
    section = content.get("deepspeed_config")
    if isinstance(section, dict) and isinstance(section.get(DEEPSPEED_FILE), str):
        other = _named_in(path, section[DEEPSPEED_FILE])
        content["deepspeed_config"] = {**section, DEEPSPEED_FILE: _read(other, _of_json)}
    return content


def _named_in(path: Path, name: str) -> Path:
    """As accelerate takes it, from the working directory; or beside the file that names it."""
    here, beside = Path(name).expanduser(), path.parent / Path(name).expanduser()
    found = next((other for other in (here, beside) if other.exists()), None)
    if found is None:
        hint = f"looked for as {here.absolute()} and {beside.absolute()}"
        raise InputError(f"{DEEPSPEED_FILE}: there is no such file: {name}", where=str(path), hint=hint)
    return found


def _read(path: Path, parse: Callable[[str, Path], Any]) -> Content:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path)) from None
    return _plain(parse(text, path), str(path))


def _of_json(text: str, path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> Content:
        names = [name for name, _ in pairs]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(f"says twice: {', '.join(twice)}", where=str(path))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as problem:
        raise UsageError(f"this is not JSON: {problem.msg}", where=f"{path}:{problem.lineno}") from None


def _of_yaml(text: str, path: Path) -> Any:
    import yaml  # not needed for what is said by flags

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as problem:
        line = f":{problem.problem_mark.line + 1}" if problem.problem_mark else ""
        raise UsageError(f"this is not YAML: {problem.problem}", where=f"{path}{line}") from None
    except yaml.YAMLError as problem:
        raise UsageError(f"this is not YAML: {problem}", where=str(path)) from None


def _plain(content: Any, where: str) -> Content:
    """Without what is left empty: that asks for nothing."""
    if not isinstance(content, dict):
        raise UsageError("holds no keys with values", where=where or None)
    if problems := list(_unusual(content)):
        raise UsageError("; ".join(problems), where=where or None)
    return dict(_without_empty(content))


def _unusual(value: Any, path: str = "") -> Iterator[str]:
    """What a run file and JSON cannot say."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                yield f"{path}{name!r}: a key is a text"
            else:
                yield from _unusual(inner, f"{path}{name}.")
    elif isinstance(value, list):
        for inner in value:
            yield from _unusual(inner, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path[:-1]} = {value}: is no number that can be reached"
    elif not isinstance(value, (str, int, float, type(None))):
        yield f"{path[:-1]} = {value}: put it into quotation marks"


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_empty(inner) for inner in value]
    return value
