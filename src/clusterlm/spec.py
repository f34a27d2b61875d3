"""Spec: what the user asks. The flags of a command and the run file (`run.toml`) have the same names."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clusterlm.errors import InputError, UsageError, nearest

STANDARD_STREAM = "-"
"""As INPUT: standard input. As OUTPUT: standard output (runs.folder has the name too, because it must load fast)."""

NOT_IN_RESULTS = {"output", "prompt_response", "prompt_as", "max_batch_tokens", "device_map", "engine"}
"""Settings that change no result; a run may be continued with others."""


class GenerateSpec(BaseModel):
    """A file of prompts in, a file of answers out. None means: as the model's own generation_config.json says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["generate"] = "generate"
    model: str = Field(min_length=1)
    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    revision: str | None = None

    column: str | None = None
    template: str | None = None
    split: str | None = None
    whole_file: bool = False

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: int = 0
    n: Annotated[int, Field(ge=1)] = 1
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    chat: bool | None = None
    system: str | None = None

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["none", "int8", "nf4"] = "none"
    device_map: str = "auto"
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    engine: Literal["auto", "transformers"] = "auto"

    prompt_response: bool = False
    prompt_as: Literal["text", "hash"] = "text"

    def settings(self) -> dict[str, Any]:
        """What decides the results, but for the content of the model and of the input."""
        return self.model_dump(mode="json", exclude=NOT_IN_RESULTS)

    def to_toml(self) -> str:
        """The run file that asks for the same; what was left at its default is left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        # A JSON string, number, boolean or list of strings is the same in TOML.
        lines = [f"{name} = {json.dumps(value)}" for name, value in {"task": self.task, **given}.items()]
        return "\n".join(lines) + "\n"


def make_spec(values: Mapping[str, Any], where: str | None = None) -> GenerateSpec:
    """The values checked; UsageError lists all that is wrong at once."""
    try:
        return GenerateSpec(**values)
    except ValidationError as problem:
        lines = [_explain(error) for error in problem.errors()]
        raise UsageError("; ".join(lines), where=where) from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "extra_forbidden":
        close = nearest(name, GenerateSpec.model_fields)
        return f"there is no setting {name!r}" + (f" (did you mean {close!r}?)" if close else "")
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{name} = {error['input']!r:.80}: {message}"


def read_run_file(path: Path) -> dict[str, Any]:
    """The values of a run file; `input`, `output` and a model folder are meant from the run file's own folder."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("there is no such run file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot be read: {problem}", where=str(path)) from None
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"this is not TOML: {problem}", where=str(path)) from None
    for name in ("input", "output"):
        if isinstance(values.get(name), str) and values[name] != STANDARD_STREAM:
            values[name] = str(path.parent / Path(values[name]).expanduser())
    model = values.get("model")
    if isinstance(model, str) and (path.parent / model).is_dir():
        values["model"] = str(path.parent / model)
    return values
