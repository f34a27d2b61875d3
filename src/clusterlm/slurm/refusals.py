"""Why Slurm did not take a job: its own words, ours, and what to do."""

from __future__ import annotations

from pathlib import Path

from clusterlm.errors import SlurmError
from clusterlm.slurm.client import Refusal


def explained(refusal: Refusal, script: Path) -> SlurmError:
    return SlurmError(f"Slurm does not take the job: {refusal.said}", where=str(script))
