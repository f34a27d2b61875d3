"""Job: one batch job as a value, in the words of a cluster's profile."""

from __future__ import annotations

from dataclasses import dataclass, field

from clusterlm.slurm.environment import Environment


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a batch script asks for and runs: a run's worker, or a plain command."""

    name: str
    partition: str
    """A key of the profile's `partitions`."""
    node_type: str
    """A key of the profile's `nodes`."""
    nodes: int
    gpus_per_node: int
    seconds: int
    """The time limit; Slurm rounds it up to a minute."""
    command: tuple[str, ...] = ()
    """Without `run`: started once on each node, word by word, without a shell in between."""
    output: str
    """Path of what the job prints; Slurm fills in %j and its kin."""
    cpus_per_task: int | None = None
    """Of one node, as Slurm counts CPUs; None: what the site gives."""
    memory_gib: int | None = None
    """Of one node; None: what the site gives."""
    account: str | None = None
    qos: str | None = None
    """Wins over the partition's."""
    run: str | None = None
    """Folder of the run whose worker the job starts."""
    python: str = ""
    """Interpreter on the nodes that has clusterlm; a run needs it."""
    ranks_per_node: int = 1
    """Processes of the worker on each node."""
    tasks: tuple[int, ...] | None = None
    """Of an array."""
    tasks_at_once: int | None = None
    signal_seconds: int | None = None
    """So long before its time is over, the worker gets a USR1."""
    options: tuple[str, ...] = ()
    """The user's own for sbatch, as they were written: --reservation=x."""
    environment: Environment = field(default_factory=Environment)

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node
