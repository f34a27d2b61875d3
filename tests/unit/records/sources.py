"""Inputs of tests, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import InputError, UsageError
from clusterlm.records.source import Source, open_source


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(source: Source) -> list[str | None]:
    return [request.prompt for request in source]


def errors(source: Source) -> list[str | None]:
    return [request.error for request in source]


def refusal(kind: type[InputError | UsageError], path: Path, **options: Any) -> str:
    """What open_source, or else the check of all rows, says against the file."""
    with pytest.raises(kind) as caught:
        open_source(path, **options).check()
    assert caught.value.hint, "every refusal says what to do"
    return str(caught.value)
