"""What a plan decided of a training, where its user left it open: written beside the job, read by its worker."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clusterlm.runs.asked import Asked
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.submission import read_submission

if TYPE_CHECKING:  # what plans knows Slurm's words, which the worker has no need of
    from clusterlm.planning.candidates import Candidate
    from clusterlm.spec import TrainSpec


def decided(spec: TrainSpec, best: Candidate) -> dict[str, Any]:
    """All settings that change no result: the plan was made with the user's own, and has chosen the others."""
    case = best.case
    own = spec.model_dump(mode="json", include=set(spec.NOT_IN_RESULTS) - {"output"})
    return {
        **own,
        "gpus": case.strategy.gpus,
        "strategy": best.wishes.strategy,
        "offload": case.strategy.offload,
        "micro_batch": spec.micro_batch or case.workload.batch,
        "gradient_checkpointing": case.workload.checkpointing,
    }


def asked_of_job(run: RunFolder) -> Asked[Any]:
    """What a job of the run works on: as it was asked for, with what was decided for its jobs."""
    asked = run.read_asked()
    settings = read_submission(run).settings
    if settings is None:
        return asked
    return replace(asked, spec=type(asked.spec)(**{**asked.spec.model_dump(), **settings}))
