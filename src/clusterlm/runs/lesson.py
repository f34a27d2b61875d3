"""What a training is asked for, checked before anything is loaded or written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from clusterlm.errors import ModelError, RunError, UsageError
from clusterlm.records.examples import Examples, open_examples
from clusterlm.runs.asked import Asked
from clusterlm.spec import STANDARD_STREAM, TrainSpec
from clusterlm.store import ModelFolder


def to_learn(spec: TrainSpec, find: Callable[[], ModelFolder]) -> Asked[TrainSpec]:
    """The data is read whole; InputError, UsageError, ModelError or RunError for the first thing that is wrong."""
    _check_output(spec)
    examples = _open(spec, spec.input)
    summary = examples.check()
    digest = summary.digest
    if spec.eval is not None:
        held_out = _open(spec, spec.eval)
        if held_out.form != examples.form:
            problem = f"holds {held_out.form}, and what is learned is {examples.form}"
            raise UsageError(problem, where=f"--eval {spec.eval}", hint="both need the same columns")
        digest = hashlib.sha256((digest + held_out.check().digest).encode()).hexdigest()
    model = find()
    if examples.form == "messages" and not model.has_chat_template:
        hint = "take the model's instruction-tuned version, or learn prompts with completions"
        raise ModelError("has no chat template, so it cannot learn messages", where=model.name, hint=hint)
    return Asked(
        spec=spec,
        input_path=Path(spec.input).expanduser(),
        model_name=model.name,
        model_path=model.path,
        model_fingerprint=model.fingerprint,
        requests=summary.usable,
        input_digest=digest,
    )


def _open(spec: TrainSpec, path: str) -> Examples:
    if path == STANDARD_STREAM:
        raise UsageError("what is learned is read several times", where="-", hint="write it to a file first")
    return open_examples(
        Path(path).expanduser(),
        column=spec.column,
        template=spec.template,
        whole_file=spec.whole_file,
        split=spec.split,
    )


def _check_output(spec: TrainSpec) -> None:
    if spec.output == STANDARD_STREAM:
        raise UsageError("a model is a folder", where="-o -", hint="-o my-model")
    parent = Path(spec.output).expanduser().absolute().parent
    if not parent.is_dir():
        raise RunError("there is no such folder", where=str(parent), hint=f"mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise RunError("cannot be written to", where=str(parent), hint="name another OUTPUT")
