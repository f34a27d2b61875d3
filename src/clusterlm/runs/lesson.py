"""What a training is asked for, checked before anything is loaded or written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from clusterlm.errors import ModelError, RunError, UsageError
from clusterlm.model.architectures import shape_from_config
from clusterlm.records.examples import Examples, open_examples
from clusterlm.runs.asked import Asked
from clusterlm.spec import STANDARD_STREAM, TrainSpec
from clusterlm.store import ModelFolder


def to_learn(spec: TrainSpec, find: Callable[[], ModelFolder]) -> Asked[TrainSpec]:
    """The data is read whole; InputError, UsageError, ModelError or RunError for the first thing that is wrong."""
    _check_output(spec)
    examples = _open(spec, spec.input)
    summary = examples.check()
    digest, notes = summary.digest, summary.lines()
    if spec.eval is not None:
        held_out = _open(spec, spec.eval)
        if held_out.form != examples.form:
            problem = f"holds {held_out.form}, and what is learned is {examples.form}"
            raise UsageError(problem, where=f"--eval {spec.eval}", hint="both need the same columns")
        of_held_out = held_out.check()
        notes += [f"held out: {line}" for line in of_held_out.lines()]
        digest = hashlib.sha256((digest + of_held_out.digest).encode()).hexdigest()
    model = find()
    _check_sequences(spec, model)
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
        notes=tuple(notes),
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


def _check_sequences(spec: TrainSpec, model: ModelFolder) -> None:
    """UsageError where the model has no positions for sequences that long."""
    if spec.sequence_length is None:
        return
    try:
        shape = shape_from_config(model.config(), model.name)
    except ModelError:
        return  # no shape of ours; transformers may know it, and the worker asks it
    most = shape.context_tokens
    if most is not None and spec.sequence_length > most and shape.traits.get("position") in ("learned", "rope"):
        problem = f"the model has positions for {most:,} tokens, not for {spec.sequence_length:,}"
        raise UsageError(problem, where="--sequence-length", hint=f"--sequence-length {most}")


def _check_output(spec: TrainSpec) -> None:
    if spec.output == STANDARD_STREAM:
        raise UsageError("a model is a folder", where="-o -", hint="-o my-model")
    parent = Path(spec.output).expanduser().absolute().parent
    if not parent.is_dir():
        raise RunError("there is no such folder", where=str(parent), hint=f"mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise RunError("cannot be written to", where=str(parent), hint="name another OUTPUT")
