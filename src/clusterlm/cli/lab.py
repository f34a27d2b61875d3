"""`clusterlm lab`: a Slurm cluster on this machine, to rehearse on."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from clusterlm.slurm.lab import Lab

NOT_RUNNING = 3
"""As `systemctl status` says it."""
FOLDER = click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where all of it is.  [default: ~/.local/state/clusterlm/lab, or in /tmp]",
)


@click.group()
def lab() -> None:
    """A Slurm cluster on this machine, with nodes and GPUs that are only pretended, to rehearse on."""


@lab.command()
@FOLDER
@click.option("--nodes", metavar="LIST", default="v100:2 a100:1", show_default=True, help="Types of GPU, and nodes.")
@click.option("--gpus", metavar="N", type=int, default=4, show_default=True, help="Of each node.")
@click.option("--accounting", is_flag=True, help="With accounts, QoS and sacct; takes some seconds longer.")
@click.option("--mode", type=click.Choice(["netns", "plain"]), help="Nodes with a network of their own, or without.")
def start(folder: Path | None, nodes: str, gpus: int, accounting: bool, mode: str | None) -> None:
    """Start it, and print the setting by which Slurm's commands find it: eval "$(clusterlm lab start)".

    Root gets nodes with their own addresses and host names (netns), other users daemons side by side (plain).
    """
    from typing import cast

    from clusterlm.slurm.lab import default_folder, start_lab
    from clusterlm.slurm.lab.layout import Mode

    place = folder or default_folder()
    started = start_lab(place, nodes=nodes, gpus=gpus, accounting=accounting, mode=cast("Mode | None", mode))
    started.write_profile()
    click.echo(f"export SLURM_CONF={shlex.quote(str(started.slurm_conf))}")
    _say_what_next(started, folder)


@lab.command()
@FOLDER
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(folder: Path | None, as_json: bool) -> None:
    """Whether it runs, and how its nodes are. Exit status: 0 it runs; 3 it does not."""
    from clusterlm.report.table import aligned
    from clusterlm.slurm.lab import default_folder, lab_status

    now = lab_status(folder or default_folder())
    if as_json:
        click.echo(json.dumps({**asdict(now), "folder": str(now.folder)}, indent=2))
    elif now.running:
        rows = [(node.name, f"{node.gpus} x {node.gpu_type}", node.address, node.state) for node in now.nodes]
        accounting = "with accounting" if now.accounting else "no accounting"
        click.echo(f"{now.cluster} in {now.folder}: {now.mode}, {accounting}; the controller is {now.controller}")
        click.echo(aligned([("NODE", "GPUS", "ADDRESS", "STATE"), *rows]))
    else:
        click.echo(f"no lab is running in {now.folder}")
    click.get_current_context().exit(0 if now.running else NOT_RUNNING)


@lab.command()
@FOLDER
def stop(folder: Path | None) -> None:
    """End all its daemons and jobs. Its folder stays, with the logs."""
    from clusterlm.slurm.lab import default_folder, find_lab

    place = folder or default_folder()
    found = find_lab(place)
    running = found is not None and found.is_running()
    if found:
        found.stop()
    click.echo(f"stopped; its logs are in {place / 'log'}" if running else f"no lab is running in {place}", err=True)


@lab.command()
@click.argument("name", metavar="NODE")
@click.argument("action", type=click.Choice(["start", "stop", "crash", "lose"]))
@FOLDER
def node(name: str, action: str, folder: Path | None) -> None:
    """Rehearse a failure: NODE is a node of the lab, or controller.

    \b
    stop   its daemon ends, its jobs go on
    crash  the same at once
    lose   the whole node vanishes, with its jobs
    start  it is back
    """
    from typing import cast

    from clusterlm.slurm.lab import default_folder, running_lab
    from clusterlm.slurm.lab.cluster import Action

    running_lab(folder or default_folder()).act(name, cast("Action", action))


def _say_what_next(started: Lab, folder: Path | None) -> None:
    from clusterlm.report.table import aligned

    at = f" --folder {shlex.quote(str(folder))}" if folder else ""
    commands = [
        ("  sinfo", "its nodes and partitions"),
        ("  sbatch --gres=gpu:1 --wrap 'hostname; env'", "a job"),
        ("  clusterlm clusters show lab", "its profile, which --on lab and --on auto find"),
        (f"  clusterlm lab node {started.layout.nodes[0].name} lose{at}", "a failure"),
        (f"  clusterlm lab stop{at}", "the end"),
    ]
    click.echo(f"{started.layout.cluster} runs in {started.folder}; with the line above in your shell:", err=True)
    click.echo(aligned(commands), err=True)
