"""From the MODEL of a command to its folder; the built-in model is made when it is wanted first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clusterlm.store import ModelFolder, find_model

if TYPE_CHECKING:
    from clusterlm.spec import TaskSpec

DEMO = "demo"
"""Name of the built-in model."""


def find(spec: TaskSpec) -> ModelFolder:
    return demo_model() if spec.model == DEMO else find_model(spec.model, spec.revision)


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
