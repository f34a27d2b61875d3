"""From the MODEL of a plan to its sizes and its config.json; no weights are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterlm.errors import ModelError
from clusterlm.model.architectures import known_architectures
from clusterlm.model.catalogue import catalogue_config, nearest_names
from clusterlm.model.find import UnknownModel, cached_snapshot, find_model, shape_of_folder
from clusterlm.model.shape import ModelShape


def find_shape(name: str) -> ModelShape:
    """The sizes of MODEL: of a folder, of the Hugging Face cache, of the catalogue, else of the hub."""
    try:
        return find_model(_folder_of_demo(name))
    except UnknownModel:
        return shape_of_folder(_fetched(name), name)


def find_config(name: str) -> dict[str, Any]:
    """The config.json that MODEL means, found where its sizes are."""
    path = Path(_folder_of_demo(name)).expanduser()
    folder = path if path.is_dir() else cached_snapshot(name)
    if folder is None:
        known = catalogue_config(name)
        if known is not None:
            return known
        folder = _fetched(name)
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"config.json cannot be read: {problem}", where=str(folder)) from None
    return content if isinstance(content, dict) else {}


def only_traceable(config: dict[str, Any]) -> bool:
    """Its architecture is not in clusterlm's table."""
    return "model_type" in config and config["model_type"] not in known_architectures()


def _fetched(name: str) -> Path:
    """Its config.json from the hub; where that fails, the catalogue's nearest names are a better hint."""
    from clusterlm.store import fetch_config

    try:
        return fetch_config(name)
    except ModelError as refusal:
        close = nearest_names(name)
        likely = [f"did you mean {', '.join(close)}?"] if close else []
        hint = " else ".join([*likely, *([refusal.hint] if refusal.hint else [])])
        raise ModelError(refusal.problem, where=refusal.where, hint=hint or None) from None


def _folder_of_demo(name: str) -> str:
    if name != "demo":
        return name
    from clusterlm.cli.models import demo_model

    return str(demo_model().path)
