"""After a training ran out of memory its next attempt takes half as many rows at once; its steps stay the same.

A process that is alone does so by itself. Of several the others wait for the one that failed: all must begin anew, as
the next job, or as the next start by `clusterlm train`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterlm.runs.attempt import outcomes_in
from clusterlm.runs.diagnosis import Evidence, diagnose
from clusterlm.runs.folder import RunFolder

OUT_OF_MEMORY = frozenset({"gpu-out-of-memory", "host-out-of-memory"})
"""Causes, where a process had the time to say it."""


def can_take_less(attempt: Path) -> bool:
    """It ran out of memory in its steps, and took several rows at once."""
    return rows_too_many(attempt) > 1


def rows_at_once(run: RunFolder, wanted: int, processes: int) -> int:
    """On each of so many processes, by what was too much for as many before."""
    tried = [attempt for attempt in run.attempts() if _training(attempt).get("processes") == processes]
    return max(1, min((wanted, *(rows // 2 for attempt in tried if (rows := rows_too_many(attempt))))))


def rows_too_many(attempt: Path) -> int:
    """The rows at once for which the memory was too small; 0 where it was not, or not in a step."""
    causes = {_cause(outcome) for outcome in outcomes_in(attempt).values()}
    return int(_training(attempt).get("micro_batch", 0)) if causes & OUT_OF_MEMORY else 0


def _cause(outcome: dict[str, Any]) -> str | None:
    found = diagnose(Evidence(outcome=outcome)) if outcome["outcome"] == "failed" else None
    return found.cause if found else None


def _training(attempt: Path) -> dict[str, Any]:
    """How it was spread; {} before its first step."""
    try:
        return dict(json.loads((attempt / "environment.json").read_bytes())["training"])
    except (OSError, ValueError, KeyError):
        return {}
