"""Job: one batch job as a value, in the words of a cluster's profile."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a batch script asks for and runs."""

    name: str
    partition: str
    """A key of the profile's `partitions`."""
    node_type: str
    """A key of the profile's `nodes`."""
    nodes: int
    gpus_per_node: int
    seconds: int
    """The time limit; Slurm rounds it up to a minute."""
    command: tuple[str, ...]
    """Started once on each node, word by word, without a shell in between."""
    output: str
    """Path of what the job prints; Slurm fills in %j and its kin."""
    cpus_per_task: int | None = None
    """Of one node, as Slurm counts CPUs; None: what the site gives."""
    memory_gib: int | None = None
    """Of one node; None: what the site gives."""
    account: str | None = None
