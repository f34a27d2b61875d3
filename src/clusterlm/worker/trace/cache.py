"""Traces kept in the user's cache folder, by content: the request, the libraries' versions, the code that traces.

Best effort: what cannot be read is traced again, what cannot be written is not kept. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path

from clusterlm.errors import ClusterlmError
from clusterlm.records.files import write_whole
from clusterlm.worker.trace.request import Trace, TraceRequest

LIBRARIES = ("torch", "transformers", "peft")


def kept_trace(request: TraceRequest) -> Trace | None:
    """The same request's trace from an earlier time; None where there is none that can be read."""
    try:
        return Trace.from_json(json.loads(_file(request).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(request: TraceRequest, trace: Trace) -> None:
    """Keep it for the next time, where the disk allows."""
    file = _file(request)
    content = json.dumps(trace.to_json()).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda stream: stream.write(content))
    except (OSError, ClusterlmError):
        return


def library_versions() -> dict[str, str]:
    """Of those that decide how many bytes a step takes, as installed."""
    return {name: _version(name) for name in LIBRARIES}


def _file(request: TraceRequest) -> Path:
    content = {"request": request.to_json(), "versions": library_versions(), "code": _code()}
    key = hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()
    # The XDG base directory specification: unset, empty and relative all mean ~/.cache.
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not folder.is_absolute():
        folder = Path.home() / ".cache"
    return folder / "clusterlm" / "traces" / f"{key[:32]}.json"


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
