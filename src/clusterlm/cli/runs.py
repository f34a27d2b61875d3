"""`clusterlm runs`: the runs there are."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def runs() -> None:
    """The runs there are, and how far each is."""


@runs.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def list_(as_json: bool) -> None:
    """All runs of this user that still exist, the oldest first."""
    from clusterlm.report.runs import run_summary, runs_table
    from clusterlm.runs.folder import known_runs

    summaries = [run_summary(run) for run in known_runs()]
    if as_json:
        click.echo(json.dumps(summaries, indent=2))
    elif summaries:
        click.echo(runs_table(summaries))
    else:
        click.echo("there is no run yet: clusterlm generate begins one", err=True)


@runs.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(run: str, as_json: bool) -> None:
    """All about one run; RUN is its folder, its output file, or its name in the list."""
    from clusterlm.report.runs import run_summary, run_text
    from clusterlm.runs.folder import find_run

    folder = find_run(run)
    if as_json:
        content = {**run_summary(folder), "asked": folder.read(), "environment": folder.environment()}
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(run_text(folder))


@runs.command()
@click.argument("run")
def where(run: str) -> None:
    """The path of a run's folder."""
    from clusterlm.runs.folder import find_run

    click.echo(Path(find_run(run).path))
