"""A user's own file of DeepSpeed or accelerate, beside a run that keeps what it said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterlm.runs.folder import folder_for
from clusterlm.spec import TrainSpec
from clusterlm.spec.own_strategy import settled
from clusterlm.spec.own_strategy.read import OF_SETTING


def with_own_file(
    spec: TrainSpec, *, as_job: bool = False, nodes: int | None = None, restart: bool = False
) -> tuple[TrainSpec, tuple[str, ...]]:
    """The spec with what the file says, and notes; UsageError or InputError for what is wrong with it.

    Where the file is gone and its run is there, what the run keeps of it, unless `restart` throws that away.
    """
    name = next((name for name in OF_SETTING if getattr(spec, name) is not None), None)
    if name is None:
        return spec, ()
    given, kept = getattr(spec, name), None if restart else _kept(spec, name)
    if kept is not None and isinstance(given, str) and not Path(given).expanduser().exists():
        known, notes = settled(spec.model_copy(update={name: kept}), as_job=as_job, nodes=nodes)
        return known, (f"{given} is no more there: its run keeps what it said", *notes)
    found, notes = settled(spec, as_job=as_job, nodes=nodes)
    if kept is not None and json.dumps(kept, sort_keys=True) != json.dumps(getattr(found, name), sort_keys=True):
        notes = (f"{given} has changed since its run was begun: what it says now is done", *notes)
    return found, notes


def _kept(spec: TrainSpec, name: str) -> dict[str, Any] | None:
    """By the run of the same OUTPUT."""
    run = folder_for(spec)
    if not (run.path / "run.json").exists():
        return None
    content = run.read()["spec"].get(name)
    return content if isinstance(content, dict) else None
