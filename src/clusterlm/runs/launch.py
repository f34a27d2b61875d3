"""From a Spec to a RunFolder: everything is checked before anything is loaded or written."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clusterlm.errors import InputError, MissingPackage, ModelError, UsageError
from clusterlm.records.output import check_output_path
from clusterlm.records.request import Request
from clusterlm.records.source import open_source
from clusterlm.runs.asked import Asked
from clusterlm.runs.folder import RunFolder, folder_for, open_run
from clusterlm.runs.lesson import to_learn
from clusterlm.spec import STANDARD_STREAM, GenerateSpec, TaskSpec, TrainSpec
from clusterlm.store import ModelFolder

OF_TASK = {
    "generate": ("torch", "transformers"),
    "train": ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "numpy", "pyarrow"),
}
"""Packages that it cannot do without."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can start."""

    run: RunFolder
    requests: int
    finished_before: int
    notes: tuple[str, ...] = ()
    """What the user should know of the input."""


def prepare(spec: TaskSpec, find: Callable[[], ModelFolder], *, restart: bool) -> Prepared:
    """The run's folder, new or continued; the first thing wrong is raised, and then nothing was touched."""
    check_packages(spec)
    with examined(spec, find) as asked:
        run = folder_for(spec)
        finished_before = open_run(run, asked, restart=restart)
    return Prepared(run=run, requests=asked.requests, finished_before=finished_before, notes=asked.notes)


def examined(spec: TaskSpec, find: Callable[[], ModelFolder]) -> AbstractContextManager[Asked[Any]]:
    """What is asked for, all of it checked and nothing written."""
    if isinstance(spec, TrainSpec):
        return contextlib.nullcontext(to_learn(spec, find))
    assert isinstance(spec, GenerateSpec)
    return _to_answer(spec, find)


@contextlib.contextmanager
def _to_answer(spec: GenerateSpec, find: Callable[[], ModelFolder]) -> Iterator[Asked[GenerateSpec]]:
    if spec.output != STANDARD_STREAM:
        check_output_path(Path(spec.output), None if spec.input == STANDARD_STREAM else Path(spec.input))
    with _input_file(spec) as input_path:
        source = open_source(
            input_path, column=spec.column, template=spec.template, whole_file=spec.whole_file, split=spec.split
        )
        summary = source.check()
        if summary.count == 0:
            raise InputError("holds no request", where=spec.input)
        model = find()
        _check_chat(spec, next(iter(source)), model)
        yield Asked(
            spec=spec,
            input_path=input_path,
            model_name=model.name,
            model_path=model.path,
            model_fingerprint=model.fingerprint,
            requests=summary.count,
            input_digest=summary.digest,
        )


def check_packages(spec: TaskSpec) -> None:
    reported_to = spec.report_to if isinstance(spec, TrainSpec) else ()
    if absent := [name for name in reported_to if find_spec(name) is None]:
        problem = f"reports to {' and '.join(absent)}, not installed here"
        raise MissingPackage(problem, where="--report-to", hint=f"pip install {' '.join(absent)}")
    wanted = [*OF_TASK[spec.task], *(["bitsandbytes"] if _quantises(spec) else [])]
    wanted += ["deepspeed"] if isinstance(spec, TrainSpec) and spec.strategy.startswith("zero") else []
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        extras = "run,deepspeed" if "deepspeed" in missing else "run"
        hint = f"pip install 'clusterlm[{extras}]', or load your site's module and install the rest beside it"
        doing = "training" if spec.task == "train" else "generating"
        raise MissingPackage(f"{doing} needs {' and '.join(missing)}, not installed here", hint=hint)


def _quantises(spec: TaskSpec) -> bool:
    if isinstance(spec, TrainSpec):
        return spec.method == "qlora" or "8bit" in spec.optimizer
    return getattr(spec, "quantize", "none") != "none"


def _check_chat(spec: GenerateSpec, first: Request, model: ModelFolder) -> None:
    is_chat = spec.chat if spec.chat is not None else first.messages is not None
    if first.messages is not None and not is_chat:
        raise UsageError("--no-chat takes prompts, and the input holds messages", where=spec.input)
    if spec.system is not None and not is_chat:
        raise UsageError("--system is a part of a conversation, and the input holds prompts", hint="add --chat")
    if is_chat and not model.has_chat_template:
        hint = "take the model's instruction-tuned version, or give prompts instead of messages (and no --chat)"
        raise ModelError("has no chat template, so it cannot answer messages", where=model.name, hint=hint)


@contextlib.contextmanager
def _input_file(spec: GenerateSpec) -> Iterator[Path]:
    """INPUT as a file; standard input is read to its end first, because it is read only once."""
    if spec.input != STANDARD_STREAM:
        yield Path(spec.input).expanduser()
        return
    with tempfile.TemporaryDirectory() as folder:
        spooled = Path(folder) / "input"
        with open(spooled, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with open(spooled, "rb") as file:
            is_json = file.read(4096).lstrip().startswith(b"{")
        yield spooled.rename(spooled.with_suffix(".jsonl" if is_json else ".txt"))
