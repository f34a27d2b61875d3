"""Runs as the command line shows them, and what to wait for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.cli.running import clusterlm

RECORDS = 12


def write_prompts(path: Path, records: int = RECORDS) -> Path:
    path.write_text("".join(f"The number {number} is\n" for number in range(records)))
    return path


def run_of(output: Path) -> dict[str, Any]:
    return dict(json.loads(clusterlm("runs", "show", output, "--json").stdout))


def until(output: Path, states: set[str], seconds: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (shown := run_of(output))["state"] not in states:
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    return shown


def until_over(output: Path, seconds: float = 120) -> dict[str, Any]:
    """No job of it is with Slurm any more, however it ended."""
    deadline = time.monotonic() + seconds
    while (shown := run_of(output))["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    return shown
