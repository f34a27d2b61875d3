"""From the MODEL of a command to its folder or its sizes; the built-in model is made when it is wanted first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clusterlm.errors import ModelError
from clusterlm.store import ModelFolder, find_model

if TYPE_CHECKING:
    from clusterlm.model.shape import ModelShape
    from clusterlm.spec import GenerateSpec

DEMO = "demo"
"""Name of the built-in model."""


def find(spec: GenerateSpec) -> ModelFolder:
    return demo_model() if spec.model == DEMO else find_model(spec.model, spec.revision)


def find_config(name: str) -> dict[str, Any]:
    """The config.json that MODEL means: a folder's, or the catalogue's."""
    from clusterlm.model.catalogue import catalogue_config, nearest_names

    path = Path(name).expanduser()
    if path.is_dir():
        config = json.loads((path / "config.json").read_text())
        return {**config, "_name_or_path": name}
    found = catalogue_config(name)
    if found is None:
        near = nearest_names(name)
        hint = f"did you mean {' or '.join(near)}?" if near else "a folder with a config.json, or a model id"
        raise ModelError("is neither a folder nor a model of the catalogue", where=name, hint=hint)
    return {**found, "_name_or_path": name}


def shape_or_none(config: dict[str, Any], *, traced: bool) -> ModelShape | None:
    """None where the architecture is not in the table but a trace will count it."""
    from clusterlm.model.architectures import known_architectures, shape_from_config

    if traced and config.get("model_type") not in known_architectures():
        return None
    return shape_from_config(config, config["_name_or_path"])


def demo_model() -> ModelFolder:
    """The built-in model, made now if this machine has none yet."""
    from dataclasses import replace

    from clusterlm.worker.demo_model import ensure_demo_model

    made = ensure_demo_model(_show_training)
    return replace(find_model(str(made.folder)), name="demo")


def _show_training(step: int, steps: int, loss: float, seconds: float) -> None:
    if step == 1:
        click.echo("making the demo model (once; about a minute)", err=True)
    if step == 1 or step == steps or step % 100 == 0:
        click.echo(f"  step {step} of {steps}: loss {loss:.2f}, {seconds:.0f} s", err=True)
