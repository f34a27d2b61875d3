"""What can be said of a run's jobs on the command line: where they go, and how they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clusterlm.planning.wishes import Wishes
    from clusterlm.runs.order import Terms

GPUS = click.option("--gpus", type=int, help="With --on: GPUs of a job.  [what the plan finds best]")
COPIES = click.option("--copies", type=int, help="With --on: copies of the model in a job.")
PLACE = [
    click.option("--on", metavar="CLUSTER", help="Run as Slurm jobs there: a name, its file, or auto."),
    click.option("--cluster", metavar="FILE", help="The cluster's own file; goes before one of its name."),
    click.option("--partition", metavar="NAME", help="With --on: this one only."),
    click.option("--gpu", metavar="NAME", help="With --on: this kind only."),
    GPUS,
    click.option("--nodes", type=int, help="With --on: whole nodes of a job."),
    COPIES,
    click.option("--prefer", metavar="[cheapest|fastest|soonest]", help="With --on: what is best.  [cheapest]"),
]
SHARDS = [
    click.option("--shards", type=int, help="Cut the input into so many parts, a task of a job array each.  [1]"),
    click.option("--shard-minutes", type=float, help="Or as many as take about so long each."),
    click.option("--at-once", type=int, help="Most shards that run at the same time."),
]
JOB = [
    click.option("--account", metavar="NAME", help="Who pays."),
    click.option("--qos", metavar="NAME", help="Quality of service."),
    click.option("--time", metavar="TIME", help="Limit of a job, as Slurm writes it: 2:00:00.  [by the plan]"),
    *SHARDS,
    click.option("--max-attempts", type=int, help="Of a shard; an interrupted job is continued by the next.  [20]"),
    click.option("--max-hours", type=float, help="Of all attempts of a shard together."),
    click.option("--container", metavar="IMAGE", help="Work in it; 'site': the one that the cluster's profile names."),
    click.option("--sbatch", "options", multiple=True, metavar="OPTION", help='As it is: "--mail-type=END".'),
]
PLACE_OF_TRAINING = [one for one in PLACE if one not in (GPUS, COPIES)]
"""Its --gpus says the same with and without jobs."""
JOB_OF_TRAINING = [one for one in JOB if one not in SHARDS]
NOT_OF_TRAINING = [
    click.option("--shards", type=int, hidden=True),
    click.option("--shard-minutes", type=float, hidden=True),
    click.option("--at-once", type=int, hidden=True),
    click.option("--copies", type=int, hidden=True),
]
"""Refused with a reason."""
OF_JOBS = (
    *("on", "cluster", "partition", "gpu", "gpus", "nodes", "copies", "prefer"),
    *("account", "qos", "time", "shards", "shard_minutes", "at_once", "max_attempts", "max_hours"),
    *("container", "options"),
)
OF_PLACE = ("partition", "gpu", "gpus", "nodes", "copies", "prefer")


def placing_and_terms(flags: dict[str, Any]) -> tuple[Wishes, Terms, str | None, str | None]:
    """What the planner may choose from, what is said of the jobs, and --on and --cluster."""
    from clusterlm.errors import UsageError
    from clusterlm.planning.wishes import Wishes
    from clusterlm.runs.order import Terms

    given = dict(flags)
    on, file = given.pop("on"), given.pop("cluster")
    if on is None and file is None:
        raise UsageError("the cluster is missing", where="--on", hint="--on auto, --on lumi, or --cluster FILE.toml")
    placing = Wishes(**{name: given.pop(name) for name in OF_PLACE})
    minutes, hours = given.pop("shard_minutes"), given.pop("max_hours")
    terms = Terms(
        seconds=_seconds(given.pop("time")),
        shard_seconds=None if minutes is None else round(minutes * 60),
        max_seconds=None if hours is None else hours * 3600,
        **{name: value for name, value in given.items() if value is not None},
    )
    return placing, terms, on, file


def _seconds(text: str | None) -> int | None:
    from clusterlm.errors import UsageError
    from clusterlm.units import slurm_seconds

    if text is None:
        return None
    try:
        seconds = slurm_seconds(text)
    except UsageError as problem:
        raise UsageError(problem.problem, where="--time", hint=problem.hint) from None
    if not seconds:
        raise UsageError("a job needs a time limit", where="--time", hint="--time 2:00:00, for example")
    return seconds


def refuse_without_cluster(flags: dict[str, Any]) -> None:
    """What only a job has a use for."""
    from clusterlm.errors import UsageError

    given = [name for name, value in flags.items() if value not in (None, (), False)]
    if given:
        flag = "--sbatch" if given[0] == "options" else f"--{given[0].replace('_', '-')}"
        raise UsageError("belongs to Slurm jobs", where=flag, hint="add --on CLUSTER, or leave it out")
