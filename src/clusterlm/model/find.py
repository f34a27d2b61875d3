"""From what a user calls a model to its shape: a folder, the Hugging Face cache, or the catalogue. No network."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusterlm.errors import ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_entry, nearest_names
from clusterlm.model.headers import with_stored_sizes
from clusterlm.model.json_file import read_json
from clusterlm.model.shape import ModelShape


class UnknownModel(ModelError):
    """Neither a folder, nor in the cache, nor in the catalogue: the hub may have it."""


def find_model(name: str) -> ModelShape:
    """The shape of a folder, of a model id in the Hugging Face cache, or of one that the catalogue knows."""
    path = Path(name).expanduser()
    if path.is_dir():
        return shape_of_folder(path, name)
    if path.exists():
        raise ModelError("is a file; a model is a folder with a config.json", where=name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError("there is no such model folder", where=name, hint="a model of the hub is named owner/name")
    snapshot = cached_snapshot(name)
    if snapshot is not None:
        return shape_of_folder(snapshot, name)
    entry = catalogue_entry(name)
    if entry is None:
        raise _unknown(name)
    return replace(shape_from_config(entry.config, name), source=entry.source)


def shape_of_folder(folder: Path, name: str) -> ModelShape:
    """By its config.json; where all safetensors are there, their headers have the last word on count and type."""
    config = _read_config(folder)
    shape = replace(shape_from_config(config, name), source=f"config.json of {folder}")
    return with_stored_sizes(shape, folder)


def cached_snapshot(name: str) -> Path | None:
    """The folder of `main`, or of the only revision, of a hub model in the cache; None without its config.json."""
    repository = _cache_folder() / f"models--{name.replace('/', '--')}"
    snapshots = repository / "snapshots"
    if not snapshots.is_dir():
        return None
    main = repository / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else "*"
    found = [file.parent for file in snapshots.glob(f"{revision}/config.json")]
    return found[0] if len(found) == 1 else None


def _cache_folder() -> Path:
    """As huggingface_hub has it, whose import alone would take longer than a plan."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise _no_config(folder)
    config = read_json(folder / "config.json")
    older = folder / "quantize_config.json"  # AutoGPTQ's, before transformers knew GPTQ
    if "quantization_config" not in config and older.is_file():
        config["quantization_config"] = {"quant_method": "gptq", **read_json(older)}
    return config


def _no_config(folder: Path) -> ModelError:
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        hint = f"plan for its base model: {base}" if base else "plan for its base model"
        return ModelError("is a LoRA adapter, not a whole model", where=str(folder), hint=hint)
    if (folder / "params.json").is_file():
        hint = "convert it to the Hugging Face layout, which has a config.json"
        return ModelError("has only a params.json, the layout of its authors", where=str(folder), hint=hint)
    return ModelError("has no config.json, so it is no model folder", where=str(folder))


def _unknown(name: str) -> UnknownModel:
    close = nearest_names(name)
    likely = f"did you mean {', '.join(close)}? else " if close else ""
    hint = f"{likely}give a folder that has the model's config.json (hf download {name} config.json)"
    return UnknownModel(
        "is no folder, nor in the Hugging Face cache, nor in clusterlm's catalogue", where=name, hint=hint
    )
