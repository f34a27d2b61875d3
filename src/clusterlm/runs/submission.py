"""Submission: how a run was given to Slurm, as its jobs must know it to go on by themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from clusterlm.errors import RunError
from clusterlm.runs.attempt import write_json
from clusterlm.runs.chain import Caps
from clusterlm.runs.folder import RunFolder

FILE = "submission.json"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The rest is in job.sbatch."""

    cluster: str
    """Name of its profile."""
    model: str
    shards: int
    """Parts of the input; a task of the array works on one."""
    at_once: int | None = None
    """Shards that run at the same time, at most."""
    gpus: int
    """Of one job."""
    seconds: int
    """Time limit of one job."""
    max_attempts: int = Caps.attempts
    max_seconds: float | None = None
    settings: dict[str, Any] | None = None
    """Of a training: how its plan has it done, in the words of its spec."""

    @property
    def caps(self) -> Caps:
        return Caps(attempts=self.max_attempts, seconds=self.max_seconds)

    def write(self, run: RunFolder) -> None:
        write_json(run.path / FILE, asdict(self))


def read_submission(run: RunFolder) -> Submission:
    try:
        return Submission(**json.loads((run.path / FILE).read_bytes()))
    except FileNotFoundError:
        hint = f"clusterlm runs submit {run.name} --on CLUSTER does what is missing as jobs"
        raise RunError("was never given to Slurm", where=str(run.path), hint=hint) from None
    except (OSError, ValueError, TypeError) as problem:
        raise RunError(f"cannot be read: {problem}", where=str(run.path / FILE)) from None


def was_submitted(run: RunFolder) -> bool:
    return (run.path / FILE).exists()


def arguments(first_shard: int) -> list[str]:
    """Of job.sbatch in an array whose task 0 works on this shard."""
    return [str(first_shard)] if first_shard else []


def comment_of(run: RunFolder, token: str = "") -> str:
    """By which a job can be found again when Slurm's answer was lost: no two submits have the same.

    Without a token, the beginning of the comments of all jobs of the run.
    """
    return f"clusterlm:{sha256(str(run.path).encode()).hexdigest()[:12]}:{token}"
