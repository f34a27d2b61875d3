"""Doing a run as Slurm jobs: planned, checked, written, queued."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clusterlm.cli.models import find
from clusterlm.cli.plan_on import chosen_cluster
from clusterlm.cli.sizes import find_shape
from clusterlm.errors import UsageError
from clusterlm.planning.wishes import Wishes
from clusterlm.report.choice_values import choice_values
from clusterlm.report.choice_words import way_of
from clusterlm.runs.before import look_ahead
from clusterlm.runs.folder import RunFolder, folder_for, open_run
from clusterlm.runs.launch import check_packages, examined
from clusterlm.runs.order import Order, Terms, order
from clusterlm.runs.submit import refuse_second, submit
from clusterlm.spec import STANDARD_STREAM, TaskSpec, TrainSpec
from clusterlm.units import show_seconds, show_slurm_time

if TYPE_CHECKING:
    from clusterlm.cluster import Cluster
    from clusterlm.planning.candidates import Candidate


def submit_run(
    spec: TaskSpec,
    placing: Wishes,
    terms: Terms,
    *,
    on: str | None,
    file: str | None,
    dry_run: bool = False,
    restart: bool = False,
) -> None:
    """All that is wrong is said before anything is written or queued."""
    cluster = chosen_cluster(on, file)
    if spec.output == STANDARD_STREAM:
        hint = "-o my-model" if isinstance(spec, TrainSpec) else "-o answers.jsonl"
        raise UsageError("a job cannot write to standard output", where="-o -", hint=hint)
    if not terms.container:
        check_packages(spec)
    with examined(spec, lambda: find(spec)) as asked:
        if terms.shards and terms.shards > asked.requests:
            click.echo(f"note: --shards {terms.shards:,} becomes {asked.requests:,}, one for each record", err=True)
        run = folder_for(spec)
        made = order(asked, run, cluster, find_shape(str(asked.model_path)), placing, terms)
        if dry_run:
            click.echo(made.script, nl=False)
        else:
            refuse_second(run)
        for notice in look_ahead(made, asked, run, cluster, dry_run=dry_run):
            click.echo(f"note: {notice}", err=True)
        if dry_run:
            return
        open_run(run, asked, restart=restart)
    say_plan(made, asked.requests, cluster)
    say_queued(run, submit(run, made, choice_values_of(made, str(asked.model_path), cluster)))


def choice_values_of(made: Order, model: str, cluster: Cluster) -> dict[str, object]:
    """As `clusterlm plan --json` prints it."""
    from clusterlm.planning.verdict import judge

    return choice_values(made.plan, judge(made.best.case, made.best.wishes), model, ("--on", cluster.name))


def say_plan(made: Order, requests: int, cluster: Cluster) -> None:
    best, job, shards = made.best, made.job, made.submission.shards
    unit = best.place.node.unit
    each = f"{best.allocated_gpus} x {best.place.gpu.key}" if unit == "GPU" else f"{best.allocated_gpus} {unit}s"
    parts = f"{shards} shards of about {-(-requests // shards):,} records" if shards > 1 else f"{requests:,} records"
    if made.steps is not None:
        parts = f"{requests:,} examples in about {made.steps:,} steps"
    if made.steps is not None:
        each += f", {_trained(best)}"
    low, high = show_seconds(best.duration.low), show_seconds(best.duration.high)
    click.echo(f"{cluster.title}, {job.partition}: {parts}, {each} {'each' if shards > 1 else ''}".rstrip(), err=True)
    click.echo(
        f"about {low} to {high} {'a shard' if shards > 1 else 'in all'}; limit of a job {_limit(job.seconds)}", err=True
    )


def _trained(best: Candidate) -> str:
    """'FSDP, 4 sequences at once on each, gradient checkpointing'."""
    several = best.case.strategy.gpus > 1
    words = [way_of(best)] if several else []
    words.append(f"{best.case.workload.batch} sequences at once{' on each' if several else ''}")
    words += ["gradient checkpointing"] if best.case.workload.checkpointing else []
    return ", ".join(words)


def _limit(seconds: int) -> str:
    return show_slurm_time(seconds)


def say_queued(run: RunFolder, jobs: list[str]) -> None:
    click.echo(f"queued: {', '.join(f'job {job}' for job in jobs)}", err=True)
    click.echo(f"run folder: {run.path}", err=True)
    click.echo(f"follow it:  clusterlm runs watch {run.name}", err=True)
