"""`clusterlm plan --on CLUSTER`: the best way to run a model there, and the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterlm.cluster import Cluster, find_cluster, read_cluster, readable_clusters, recognise
from clusterlm.errors import UsageError
from clusterlm.planning.candidates import Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.verdict import Verdict, judge
from clusterlm.planning.wishes import Wishes

if TYPE_CHECKING:
    from clusterlm.worker.trace.request import Trace

AUTO = "auto"
LAPTOP = "laptop"
"""Where there is no Slurm."""


@dataclass(frozen=True)
class Shown:
    """What is printed."""

    as_json: bool
    explain: bool
    trace: bool
    whole: bool


def plan_on_cluster(model: str, on: str | None, file: str | None, wishes: Wishes, shown: Shown) -> bool:
    """Whether anything fits."""
    from clusterlm.cli.sizes import find_shape

    cluster = chosen_cluster(on, file)
    found = plan(Search(find_shape(model)), cluster, wishes)
    verdict = _verdict(found)
    traced = _traced(model, found, verdict) if shown.trace else None
    named = _named(cluster, on, file)
    if shown.as_json:
        _print_json(found, verdict, traced, model, named)
    else:
        _print_text(found, verdict, traced, shown)
        _print_next(found, verdict, model, named)
    return found.best is not None


def chosen_cluster(on: str | None, file: str | None) -> Cluster:
    """--cluster FILE goes before the profile of its name."""
    if on is not None and not on.strip():
        raise UsageError("the name is empty", where="--on", hint="clusterlm clusters list")
    if file is not None and not file.strip():
        raise UsageError("the name of the file is empty", where="--cluster", hint="--cluster FILE.toml")
    automatic = on is not None and on.lower() == AUTO
    if file is None:
        assert on is not None
        return recognised() if automatic else find_cluster(on)
    name = Path(file).stem
    if on not in (None, name) and not automatic:
        hint = "leave --on out"
        raise UsageError(
            f"contradict each other: the file is of {name!r}", where=f"--on {on} and --cluster {file}", hint=hint
        )
    return read_cluster(Path(file).expanduser())


def _named(cluster: Cluster, on: str | None, file: str | None) -> tuple[str, str]:
    """As the user named it; by its name where that was recognised."""
    if file is not None:
        return "--cluster", file if "/" in file or file.endswith(".toml") else f"./{file}"
    return "--on", on if on and (on.endswith(".toml") or "/" in on) else cluster.name


def recognised() -> Cluster:
    """The cluster that this machine belongs to."""
    import shutil
    import socket

    from clusterlm.slurm.client import cluster_name

    if shutil.which("scontrol") is None:
        return find_cluster(LAPTOP)
    slurm, host = cluster_name(), socket.gethostname()
    readable, broken = readable_clusters()
    for wrong in broken:
        click.echo(f"left out: {wrong}", err=True)
    cluster = recognise(tuple(readable.values()), slurm, host)
    if cluster is None:
        hint = "clusterlm clusters probe writes its profile; or --on NAME (clusterlm clusters list)"
        problem = f"no profile fits this cluster: its Slurm is called {slurm!r}, this host {host!r}"
        raise UsageError(problem, where="--on auto", hint=hint)
    return cluster


def _verdict(found: Plan) -> Verdict:
    """Of the best way, or of the one that comes nearest."""
    if found.best:
        return judge(found.best.case, found.best.wishes)
    closest = found.closest
    assert closest is not None and closest.case is not None
    return judge(closest.case, closest.way.asked(found.wishes, closest.place.node.gpus))


def _traced(model: str, found: Plan, verdict: Verdict) -> Trace:
    from clusterlm.cli.sizes import find_config
    from clusterlm.cli.trace import traced_case

    case, wishes = verdict.case, found.best.wishes if found.best else found.wishes
    return traced_case(find_config(model), case.shape, case.gpu, wishes)


def _print_json(found: Plan, verdict: Verdict, traced: Trace | None, model: str, on: tuple[str, str]) -> None:
    from clusterlm.report.choice_values import choice_values

    values = choice_values(found, verdict, model, on)
    if traced:
        values["trace"] = traced.to_json()
    click.echo(json.dumps(values, indent=2))


def _print_text(found: Plan, verdict: Verdict, traced: Trace | None, shown: Shown) -> None:
    from clusterlm.report.choice import choice_headline, choice_text

    colour = "red" if not found.best else "yellow" if found.best.tight else "green"
    click.echo(click.style(choice_headline(found), fg=colour, bold=True))
    click.echo()
    click.echo(choice_text(found, verdict, explain=shown.explain, whole=shown.whole))
    if traced:
        from clusterlm.report.trace import trace_text

        click.echo()
        click.echo(trace_text(traced, verdict.footprint))


def _print_next(found: Plan, verdict: Verdict, model: str, on: tuple[str, str]) -> None:
    from clusterlm.report.choice import noted
    from clusterlm.report.choice_notes import notes
    from clusterlm.report.choice_request import next_step

    if text := next_step(found, model, on):
        click.echo()
        click.echo(text)
    if said := notes(found, verdict, on[1]):
        click.echo()
        click.echo(noted(said))
