"""A model's JSON files, read with an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterlm.errors import ModelError


def read_json(file: Path) -> dict[str, Any]:
    """ModelError where the file cannot be read, or holds no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"cannot be read as JSON: {problem}", where=str(file)) from None
    if not isinstance(content, dict):
        raise ModelError("is not a JSON object", where=str(file))
    return content
