"""What is written of a training's first steps, and of what was planned for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterlm.runs.folder import RunFolder

FILE = "first_steps.json"
"""Of an attempt."""


def first_steps_of(run: RunFolder) -> dict[str, Any] | None:
    """As the last attempt that came so far has written it."""
    files = (attempt / FILE for attempt in reversed(run.attempts()))
    return next((_json(file) for file in files if file.exists()), None)


def plan_of_job(run: RunFolder, way: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan that the run's jobs were submitted with; None where there is none, or it is of another way.

    `way`: the GPU's key, their number, strategy and rows at once, in the words of plan.json.
    """
    file = run.path / "plan.json"
    plan = _json(file) if file.exists() else {}
    best = plan.get("best") or {}
    return plan if best and all(best.get(name) == value for name, value in way.items()) else None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_bytes()))
