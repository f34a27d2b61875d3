"""What an attempt gained for its run: records with a result, or steps of a training that are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clusterlm.runs.attempt import Attempt

STEPS = "steps.jsonl"
"""Of an attempt's folder: a line for each step of a training."""
SAVED = "saved.jsonl"
"""A line for each checkpoint."""
LONGEST_LINE_BYTES = 4096


def count_results(attempt: Attempt) -> int:
    """Records, or steps of a training that no later attempt has to do again."""
    records = sum(file.read_bytes().count(b"\n") for file in attempt.path.glob("results*.jsonl"))
    return records + _steps_kept(attempt)


def _steps_kept(attempt: Attempt) -> int:
    first, last = first_line(attempt.path / STEPS), last_line(attempt.path / STEPS)
    if first is None or last is None:
        return 0
    if any(outcome["outcome"] == "finished" for outcome in attempt.outcomes()):
        return int(last["step"] - first["step"] + 1)
    saved = last_line(attempt.path / SAVED)
    return max(0, int(saved["step"] - first["step"] + 1)) if saved else 0


def first_line(file: Path) -> dict[str, Any] | None:
    """None where there is none yet."""
    try:
        with open(file, "rb") as lines:
            return _parsed(lines.readline())
    except OSError:
        return None


def last_line(file: Path) -> dict[str, Any] | None:
    """The last one that is whole."""
    try:
        with open(file, "rb") as lines:
            lines.seek(max(0, os.fstat(lines.fileno()).st_size - 2 * LONGEST_LINE_BYTES))
            end = lines.read().splitlines()
    except OSError:
        return None
    return next((parsed for line in reversed(end) if (parsed := _parsed(line))), None)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return None
