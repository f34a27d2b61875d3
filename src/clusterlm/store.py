"""Models on disk: a folder or the Hugging Face cache, checked to be whole before anything is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import ModelError, did_you_mean
from clusterlm.model.json_file import read_json

SAMPLE_BYTES = 1 << 20
"""So much of each weight file's start, middle and end goes into the fingerprint: new weights change all three."""

HUB_ANSWERS_SECONDS = 10
UNAUTHORISED = 401
"""Answered for a private model, and for one that is not there; huggingface_hub knows that of https only."""

WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "tokenizer*", "*.tiktoken")
"""Files of a hub repository that are fetched; pickled weights only where there are no safetensors."""

ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A complete model on disk. `fingerprint` is the hub's commit, or a hash of the files' content."""

    name: str
    path: Path
    fingerprint: str

    def config(self) -> dict[str, Any]:
        """Of an adapter that of its model."""
        return read_json(config_folder(self.path) / "config.json")

    @property
    def has_chat_template(self) -> bool:
        if any(self.path.glob("chat_template*")) or (self.path / "additional_chat_templates").is_dir():
            return True
        tokenizer_config = self.path / "tokenizer_config.json"
        return tokenizer_config.exists() and bool(read_json(tokenizer_config).get("chat_template"))


def find_model(name: str, revision: str | None = None) -> ModelFolder:
    """A local folder, or a model id of the Hugging Face hub, fetched where it is not in the cache yet."""
    path = Path(name).expanduser()
    if path.is_dir():
        if revision:
            raise ModelError("a local folder has no revisions", where=name, hint="leave --revision out")
        check_model_folder(path)
        return ModelFolder(name=name, path=path.resolve(), fingerprint=f"sha256:{_content_hash(path)}")
    if path.exists():
        raise ModelError("is a file; a model is a folder with a config.json", where=name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings) if siblings else "a model of the hub is named owner/name"
        raise ModelError("there is no such model folder", where=name, hint=hint)
    snapshot = _fetch(name, revision)
    check_model_folder(snapshot)
    return ModelFolder(name=name, path=snapshot, fingerprint=snapshot.name)


def fetch_config(name: str) -> Path:
    """The cache's folder of a hub model's config.json: neither weights nor a tokenizer are fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _as_model_errors(name, None, f"hf download {name} config.json"):
        try:
            _ask_hub(name)
            folder = Path(hf_hub_download(name, "config.json")).parent
        except RemoteEntryNotFoundError:
            # An adapter's own file names the model that it belongs to.
            return Path(hf_hub_download(name, ADAPTER_CONFIG)).parent
        if "quantization_config" not in read_json(folder / "config.json"):
            with contextlib.suppress(RemoteEntryNotFoundError):
                hf_hub_download(name, "quantize_config.json")
    return folder


def _ask_hub(name: str) -> None:
    """Once: where nobody answers, hf_hub_download would try for half a minute. OSError as huggingface_hub has them."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=HUB_ANSWERS_SECONDS)
    except (OSError, ValueError):
        raise
    except Exception as silence:  # httpx's or httpx2's, by huggingface_hub's version
        raise ConnectionError(str(silence)) from silence


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with _as_model_errors(name, revision, f"hf download {name}"):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*WANTED, "pytorch_model*.bin"]))
    return folder


@contextlib.contextmanager
def _as_model_errors(name: str, revision: str | None, command: str) -> Iterator[None]:
    """What the hub refuses, in a sentence; `command` fetches the same on a machine with internet."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        hint = f"ask for access at https://huggingface.co/{name}, then run: hf auth login"
        raise ModelError("the owner lets only registered users have this model", where=name, hint=hint) from None
    except RepositoryNotFoundError:
        raise _not_on_the_hub(name) from None
    except RevisionNotFoundError:
        raise ModelError(f"has no revision {revision!r}", where=name) from None
    except RemoteEntryNotFoundError:
        raise ModelError("has no config.json on the hub, so it is no model of transformers", where=name) from None
    except HFValidationError:
        raise ModelError("is neither a folder nor a model id like 'owner/name'", where=name) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as problem:
        status = getattr(getattr(problem, "response", None), "status_code", None)
        if status == UNAUTHORISED:
            raise _not_on_the_hub(name) from None
        answer = f"the hub answers with error {status}" if status else "the hub cannot be reached"
        why = "HF_HUB_OFFLINE forbids asking the hub" if is_offline_mode() else answer
        hint = f"on a machine with internet: {command}; or name a local folder, or 'demo' for the built-in model"
        missing = f"is not in the Hugging Face cache, and {why}; nor is there such a folder"
        raise ModelError(missing, where=name, hint=hint) from None


def _not_on_the_hub(name: str) -> ModelError:
    hint = "check the spelling; a private model needs: hf auth login"
    return ModelError("the Hugging Face hub has no such model, nor is there such a folder", where=name, hint=hint)


def check_model_folder(path: Path) -> None:
    """ModelError unless config, tokenizer and all weight files are there and whole; of an adapter its model's, too."""
    if (base := base_of(path)) is not None:
        find_model(base)
    elif not (path / "config.json").is_file():
        raise ModelError("has no config.json, so it is no model folder", where=str(path))
    else:
        read_json(path / "config.json")
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        hint = "save it beside the model: tokenizer.save_pretrained(folder)"
        raise ModelError(f"has no tokenizer (none of {', '.join(TOKENIZER_FILES)})", where=str(path), hint=hint)
    for file in weight_files(path):
        if file.suffix == ".safetensors":
            _check_safetensors(file)


def config_folder(path: Path) -> Path:
    """Where a model's config.json is: beside an adapter stands none."""
    base = base_of(path)
    return path if base is None else find_model(base).path


def base_of(path: Path) -> str | None:
    """The model that an adapter belongs to: a folder, or an id of the hub. None for a whole model."""
    if not (path / ADAPTER_CONFIG).is_file():
        return None
    base = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{ADAPTER_CONFIG} does not say which model it belongs to", where=str(path))
    return str(base)


def weight_files(path: Path) -> list[Path]:
    """The weight files of a model folder, safetensors first; ModelError where there is none or one is missing."""
    for index_name, pattern in (
        ("model.safetensors.index.json", "*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ):
        if (path / index_name).is_file():
            names = sorted(set(read_json(path / index_name).get("weight_map", {}).values()))
            missing = [name for name in names if not (path / name).is_file()]
            if missing:
                hint = "copy or download the model again: it is not complete"
                raise ModelError(
                    f"{len(missing)} of {len(names)} weight files are missing, first {missing[0]}",
                    where=str(path),
                    hint=hint,
                )
            return [path / name for name in names]
        if found := sorted(path.glob(pattern)):
            return found
    hint = "is it the folder of a tokenizer alone, or was the download broken off?"
    raise ModelError("has no weights (no *.safetensors, no pytorch_model*.bin)", where=str(path), hint=hint)


def _check_safetensors(file: Path) -> None:
    """The header says where the last tensor ends: the file must be exactly that long."""
    size = file.stat().st_size
    problem = f"is truncated or damaged: {size:,} bytes"
    with open(file, "rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            raise ModelError(problem, where=str(file), hint="copy or download it again")
        try:
            header = json.loads(stream.read(header_bytes))
        except ValueError:
            raise ModelError("is no safetensors file, or damaged", where=str(file), hint="download it again") from None
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    expected = 8 + header_bytes + max(ends, default=0)
    if size != expected:
        raise ModelError(f"{problem}, its header says {expected:,}", where=str(file), hint="copy or download it again")


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    if (base := base_of(path)) is not None:
        digest.update(find_model(base).fingerprint.encode())
    weights = set(weight_files(path))
    small = [file for file in path.iterdir() if file.suffix in (".json", ".model", ".txt", ".jinja") and file.is_file()]
    for file in sorted({*weights, *small}):
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
        digest.update(_sample(file) if file in weights else file.read_bytes())
    return digest.hexdigest()[:16]


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        parts = []
        for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
            stream.seek(start)
            parts.append(stream.read(SAMPLE_BYTES))
    return b"".join(parts)
