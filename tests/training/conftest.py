"""A small model and a small text, as `clusterlm train` takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.lessons import TEXTS


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs: none of other tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
