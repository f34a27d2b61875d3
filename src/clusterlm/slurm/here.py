"""ThisJob: the Slurm job that this process is a part of, from its environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ThisJob:
    """As Slurm numbers it."""

    id: str
    """12; 12_3 for a task of an array."""
    task: int | None
    """Of its array."""
    restarts: int
    """Times it was put back into the queue."""
    nodes: int
    node_list: str
    gpus: int
    """Of all its nodes."""
    ends: float | None
    """Unix time of its time limit; Slurm tells it to its jobs since 22.05."""


def this_job() -> ThisJob | None:
    """None outside of a job. Source of the names: `man sbatch`, output environment variables."""
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return None
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    return ThisJob(
        id=number if task is None else f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}",
        task=None if task is None else int(task),
        restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        nodes=nodes,
        node_list=os.environ.get("SLURM_JOB_NODELIST", ""),
        gpus=nodes * _gpus_on_node(),
        ends=_number("SLURM_JOB_END_TIME"),
    )


def _number(name: str) -> float | None:
    text = os.environ.get(name, "")
    return float(text) if text.isdigit() else None


def _gpus_on_node() -> int:
    counted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if counted.isdigit():
        return int(counted)
    listed = os.environ.get("SLURM_JOB_GPUS", "")
    return len(listed.split(",")) if listed else 0
