"""Why a job waits: Slurm's words for it, in ours, with what to do."""

from __future__ import annotations


def words(reason: str | None) -> str:
    return reason or ""
