"""`clusterlm clusters probe`: a profile of the cluster it runs on, or what is wrong with the one there is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from clusterlm.slurm.observation import Observation

DIFFERS = 3


@click.command()
@click.argument("name", required=False)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write the profile there.")
@click.option("--force", is_flag=True, help="Even where FILE exists.")
@click.option(
    "--gpu-kind",
    "gpu_kinds",
    metavar="TYPE=KEY",
    multiple=True,
    help="Slurm's TYPE is the GPU that plan --gpu calls KEY: a100=a100-80. TYPE is gpu where Slurm has none.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def probe(name: str | None, output: Path | None, force: bool, gpu_kinds: tuple[str, ...], as_json: bool) -> None:
    """Ask the Slurm of the cluster this runs on: for a new profile, or whether the profile NAME is right.

    Only reads: scontrol and sacctmgr, each once or twice. NAME is in the list of clusters, or the path of a file.

    \b
    Exit status: 0 done, and nothing differs; 3 something does; 1 and 2 as everywhere.
    """
    from clusterlm.slurm.observation import observe

    told = _told(gpu_kinds)
    if name is None:
        _refuse_to_overwrite(output, force)
        _new_profile(observe(), output, told, as_json)
    else:
        _refuse_to_write(output)
        same = _compared(name, told, as_json)
        click.get_current_context().exit(0 if same else DIFFERS)


def _new_profile(seen: Observation, output: Path | None, told: dict[str, str], as_json: bool) -> None:
    from clusterlm.report.clusters import cluster_json
    from clusterlm.slurm.probe import probe as probe_cluster
    from clusterlm.slurm.profile_text import profile_text

    probed = probe_cluster(seen, output.stem if output else None, told)
    remarks = ["Look at:", *(f"- {note}" for note in probed.notes)] if probed.notes else []
    remarks += ["Slurm does not say; fill in:", *(f"- {fact}" for fact in probed.not_said)]
    text = profile_text(probed.cluster, remarks)
    if output:
        _write(output, text)
    if as_json:
        path = output or Path(f"{probed.cluster.name}.toml")
        content = {"profile": cluster_json(probed.cluster, path), "notes": probed.notes, "not_said": probed.not_said}
        click.echo(json.dumps(content, indent=2))
    elif not output:
        click.echo(text, nl=False)
    click.echo("\n".join(remarks), err=True)
    if output:
        click.echo(f"\nwritten: {output}; look at it with clusterlm clusters show {output}", err=True)
    click.echo("In ~/.config/clusterlm/clusters/ it is found by its name.", err=True)


def _compared(name: str, told: dict[str, str], as_json: bool) -> bool:
    """Whether the profile says nothing but what Slurm says."""
    from clusterlm.cluster import find_cluster
    from clusterlm.errors import UsageError
    from clusterlm.report.table import aligned
    from clusterlm.slurm.compare import differences, not_compared
    from clusterlm.slurm.observation import observe
    from clusterlm.slurm.probe import probe as probe_cluster

    profile = find_cluster(name)
    if not profile.slurm:
        raise UsageError(f"{profile.name} has no Slurm", hint="leave out NAME to probe the cluster this runs on")
    probed = probe_cluster(observe(), profile.name, told)
    found, left_out = differences(profile, probed.cluster), not_compared(profile, probed.cluster)
    if as_json:
        content = {"cluster": profile.name, "differences": [asdict(finding) for finding in found]}
        click.echo(json.dumps({**content, "not_compared": left_out}, indent=2))
    elif found:
        rows = [(finding.field, finding.profile, finding.slurm) for finding in found]
        click.echo(aligned([("FIELD", "THE PROFILE SAYS", "SLURM SAYS"), *rows]))
    else:
        click.echo(f"{profile.name}: nothing differs from what Slurm says")
    click.echo("\n".join(f"not compared: {what}" for what in left_out), err=True)
    return not found


def _told(gpu_kinds: tuple[str, ...]) -> dict[str, str]:
    from clusterlm.errors import UsageError

    told = dict(entry.rsplit("=", 1) for entry in gpu_kinds if "=" in entry)
    for entry in gpu_kinds:
        if "=" not in entry:
            raise UsageError(f"{entry!r} has no =", where="--gpu-kind", hint="--gpu-kind a100=a100-80")
    return told


def _refuse_to_overwrite(output: Path | None, force: bool) -> None:
    """Before Slurm is asked."""
    from clusterlm.errors import UsageError

    if output is None:
        return
    if output.suffix != ".toml":
        raise UsageError("a profile's name ends in .toml", where=f"--output {output}", hint=f"-o {output}.toml")
    if output.exists() and not force:
        raise UsageError("this file exists", where=f"--output {output}", hint="--force writes it anew")
    if not output.parent.is_dir():
        raise UsageError("there is no such folder", where=f"--output {output}", hint=f"mkdir -p {output.parent}")


def _write(output: Path, text: str) -> None:
    from clusterlm.errors import UsageError

    try:
        output.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"cannot be written: {problem.strerror}", where=f"--output {output}") from None


def _refuse_to_write(output: Path | None) -> None:
    from clusterlm.errors import UsageError

    if output is not None:
        raise UsageError("a comparison writes no profile", where="--output", hint="leave out NAME, or --output")
