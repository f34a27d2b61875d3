"""`clusterlm runs`: the runs there are, and what is done with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clusterlm.cli.job_options import JOB, PLACE, placing_and_terms
from clusterlm.cli.options import with_options

if TYPE_CHECKING:
    from clusterlm.runs.state import RunState

LOG_LINES = 40


@click.group()
def runs() -> None:
    """The runs there are: how far each is, why it waits or stopped, and what to do with it.

    RUN is a run's folder, its output file, or its name in the list.
    """


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def list_(as_json: bool) -> None:
    """All runs of this user that still exist, the oldest first."""
    from clusterlm.report.runs import run_summary, runs_table
    from clusterlm.runs.folder import known_runs
    from clusterlm.runs.state import states_of_all

    found, silent, damaged = states_of_all(known_runs())
    _say_silent(silent)
    for problem in damaged:
        click.echo(f"left out: {problem}", err=True)
    if as_json:
        click.echo(json.dumps([run_summary(one) for one in found], indent=2))
    elif found:
        click.echo(runs_table(found))
    else:
        click.echo("there is no run yet: clusterlm generate and clusterlm train begin one", err=True)


@runs.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(run: str, as_json: bool) -> None:
    """All about one run: what was asked, how far it is, and the story of its jobs."""
    from clusterlm.report.runs import journal_values, run_summary, run_text

    one = _state(run)
    if as_json:
        content = {
            **run_summary(one),
            "asked": one.asked,
            "environment": one.run.environment(),
            "journal": journal_values(one),
        }
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(run_text(one))


def _state(name: str) -> RunState:
    from clusterlm.runs.folder import find_run
    from clusterlm.runs.state import state_of

    one, silent = state_of(find_run(name))
    _say_silent(silent)
    return one


def _say_silent(problem: str | None) -> None:
    if problem:
        click.echo(f"Slurm was asked and did not tell: {problem}", err=True)


@runs.command()
@click.argument("run")
@with_options(PLACE + JOB)
@click.option("--dry-run", is_flag=True, help="Print the batch script that would be written; nothing is queued.")
def submit(run: str, dry_run: bool, **flags: Any) -> None:
    """Give a run that was begun, here or anywhere, to Slurm: only what is missing is done.

    The same settings make the same answers; where it runs and as how many shards may be others.
    """
    from clusterlm.cli.submit import submit_run
    from clusterlm.runs.folder import find_run

    folder = find_run(run)
    placing, terms, on, file = placing_and_terms(flags)
    submit_run(folder.read_asked().spec, placing, terms, on=on, file=file, dry_run=dry_run)


@runs.command()
@click.argument("run")
def resume(run: str) -> None:
    """Queue the jobs of an interrupted run again, as they were, for what is missing."""
    from clusterlm.cli.submit import say_queued
    from clusterlm.runs.folder import find_run
    from clusterlm.runs.submit import submit as submit_again

    folder = find_run(run)
    say_queued(folder, submit_again(folder))


@runs.command()
@click.argument("run")
def cancel(run: str) -> None:
    """Take a run's jobs back from Slurm; what is finished stays, and `runs resume` goes on with it."""
    from clusterlm.runs.folder import find_run
    from clusterlm.runs.submit import cancel as take_back

    folder = find_run(run)
    ids = take_back(folder)
    if ids:
        click.echo(f"cancelled: {', '.join(ids)}", err=True)
        click.echo(f"what is finished is safe; go on: clusterlm runs resume {folder.name}", err=True)
    else:
        click.echo("no job of this run is with Slurm", err=True)


@runs.command()
@click.argument("run")
@click.option("--job", help="Of this job alone; clusterlm runs show names them.  [the latest]")
@click.option("-n", "--lines", default=LOG_LINES, show_default=True, help="The last so many; 0: all.")
def logs(run: str, job: str | None, lines: int) -> None:
    """What a run's jobs printed."""
    from clusterlm.errors import RunError, did_you_mean
    from clusterlm.runs.folder import find_run

    folder = find_run(run)
    there = sorted(folder.logs.glob("*.out"), key=lambda path: path.stat().st_mtime)
    if not there:
        hint = "a job writes one when it begins: clusterlm runs show"
        raise RunError("no job of this run has printed anything yet", where=str(folder.path), hint=hint)
    chosen = there[-1] if job is None else folder.log_of(job)
    if chosen not in there:
        raise RunError(f"no job {job} of this run has printed anything", hint=did_you_mean(job or "", _names(there)))
    click.echo(f"==> {chosen} <==", err=True)
    text = chosen.read_text(errors="replace").splitlines()
    click.echo("\n".join(text[-lines:] if lines else text))


def _names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@runs.command()
@click.argument("run", nargs=-1)
@click.option("--interval", type=click.FloatRange(min=0.1), help="Seconds between two looks.  [2, growing to 30]")
@click.option("--json", "as_json", is_flag=True, help="A JSON list in a line whenever something has happened.")
def watch(run: tuple[str, ...], interval: float | None, as_json: bool) -> None:
    """Follow runs until none is with Slurm any more; all of them where none is named.

    Exit status: 0 all finished; 3 some records failed, or a run stopped before its end.
    """
    from clusterlm.cli.watch import watch_runs

    click.get_current_context().exit(watch_runs(run, interval, as_json=as_json))


@runs.command()
@click.argument("run")
def where(run: str) -> None:
    """The path of a run's folder."""
    from clusterlm.runs.folder import find_run

    click.echo(Path(find_run(run).path))
