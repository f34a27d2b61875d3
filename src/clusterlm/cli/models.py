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


def find_shape(name: str) -> ModelShape:
    """The sizes of MODEL: of a folder, of the Hugging Face cache, or of the catalogue."""
    from clusterlm.model import find

    return find.find_model(_folder_of_demo(name))


def find_config(name: str) -> dict[str, Any]:
    """The config.json that MODEL means, found where its sizes are."""
    from clusterlm.model.catalogue import catalogue_config
    from clusterlm.model.find import cached_snapshot

    path = Path(_folder_of_demo(name)).expanduser()
    folder = path if path.is_dir() else cached_snapshot(name)
    if folder is None:
        return catalogue_config(name) or {}
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"config.json cannot be read: {problem}", where=str(folder)) from None
    return content if isinstance(content, dict) else {}


def only_traceable(config: dict[str, Any]) -> bool:
    """Its architecture is not in clusterlm's table."""
    from clusterlm.model.architectures import known_architectures

    return "model_type" in config and config["model_type"] not in known_architectures()


def _folder_of_demo(name: str) -> str:
    return str(demo_model().path) if name == DEMO else name


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
