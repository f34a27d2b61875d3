"""`clusterlm job`: what a run's batch script calls before and after the work; users have no need of it."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(hidden=True)
def job() -> None:
    """Called by a run's batch script."""


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("first_shard", type=int, default=0)
def begin(run: Path, first_shard: int) -> None:
    """Make this job's attempt, queue the job that would go on after it, and print the attempt's folder."""
    from clusterlm.runs.folder import RunFolder
    from clusterlm.runs.keeper import begin

    click.echo(begin(RunFolder(run), first_shard).path)


@job.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("status", type=int)
def end(run: Path, status: int) -> None:
    """Write down how the work ended; exit with the run's own status."""
    from clusterlm.errors import ClusterlmError
    from clusterlm.runs.folder import RunFolder
    from clusterlm.runs.keeper import end, final_status

    final = final_status(status)
    try:
        end(RunFolder(run), final)
    except ClusterlmError as problem:  # a run that is done stays done where the disk has no room for its story
        click.echo(f"error: {problem}", err=True)
    click.get_current_context().exit(final)
