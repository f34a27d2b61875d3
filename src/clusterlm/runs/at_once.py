"""After a training ran out of memory its next attempt takes half as many rows at once; its steps stay the same.

A process that is alone does so by itself. Of several the others wait for the one that failed: all must begin anew.
"""

from __future__ import annotations

import json
from typing import Any

from clusterlm.runs.attempt import Attempt
from clusterlm.runs.diagnosis import Evidence, diagnose
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.told import attempts_of

OUT_OF_MEMORY = frozenset({"gpu-out-of-memory", "host-out-of-memory"})
"""Causes, where a process had the time to say it."""


def can_take_less(attempt: Attempt) -> bool:
    """It ran out of memory in its steps, and took several rows at once."""
    return _too_many(attempt) > 1


def rows_at_once(run: RunFolder, wanted: int, processes: int) -> int:
    """On each of so many processes, by what was too much for as many before."""
    tried = [one for one in attempts_of(run) if _training(one).get("processes") == processes]
    return max(1, min((wanted, *(rows // 2 for one in tried if (rows := _too_many(one))))))


def _too_many(attempt: Attempt) -> int:
    """The rows at once for which the memory was too small; 0 where it was not, or not in a step."""
    causes = {_cause(outcome) for outcome in attempt.outcomes()}
    return int(_training(attempt).get("micro_batch", 0)) if causes & OUT_OF_MEMORY else 0


def _cause(outcome: dict[str, Any]) -> str | None:
    found = diagnose(Evidence(outcome=outcome)) if outcome["outcome"] == "failed" else None
    return found.cause if found else None


def _training(attempt: Attempt) -> dict[str, Any]:
    """How it was spread; {} before its first step."""
    try:
        return dict(json.loads(attempt.file("environment.json").read_bytes())["training"])
    except (OSError, ValueError, KeyError):
        return {}
