"""Specs: what the user asks. The flags of a command and the run file (`run.toml`) have the same names."""

from clusterlm.spec.base import STANDARD_STREAM, TaskSpec
from clusterlm.spec.files import make_spec, read_run_file
from clusterlm.spec.generate import GenerateSpec
from clusterlm.spec.train import TrainSpec

__all__ = ["SPECS", "STANDARD_STREAM", "GenerateSpec", "TaskSpec", "TrainSpec", "make_spec", "read_run_file"]

SPECS: dict[str, type[TaskSpec]] = {"generate": GenerateSpec, "train": TrainSpec}
"""By the `task` of a run file."""
