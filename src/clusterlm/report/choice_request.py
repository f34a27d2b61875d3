"""The best way as what to do next: the request to Slurm, the command, and the flags that pin this plan."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.report.choice_command import run_command, takes_jobs
from clusterlm.report.choice_flags import pinning_flags
from clusterlm.runs.request import job_of
from clusterlm.slurm.script import script


def settings_command(plan: Plan, model: str, one: Candidate, on: Sequence[str]) -> str:
    """`on`: the words that name the cluster, as the user gave them: --on lumi, or --cluster FILE."""
    return f"clusterlm plan {shlex.quote(model)} {shlex.join(on)} {pinning_flags(plan, one)}"


def request_lines(one: Candidate, model: str) -> tuple[str, ...]:
    """The #SBATCH lines in the site's own spelling; none where there is no Slurm, or none any more."""
    if not takes_jobs(one):
        return ()
    return tuple(
        line for line in script(one.place.cluster, job_of(one, model)).splitlines() if line.startswith("#SBATCH")
    )


def next_step(plan: Plan, model: str, on: Sequence[str]) -> str:
    """The request to Slurm, the command of the best way where there is one, and the flags that pin this plan."""
    best = plan.best
    if best is None:
        return ""
    request, command = request_lines(best, model), run_command(plan, model, best, on)
    parts = [["REQUEST TO SLURM", *request]] if request else []
    if command:
        parts.append(["COMMAND (it writes the batch script, and queues it)" if request else "COMMAND", command])
    title = "SETTINGS (they repeat this plan)" if command else "SETTINGS (no command of clusterlm runs this)"
    parts.append([title, settings_command(plan, model, best, on)])
    return "\n\n".join("\n".join(part) for part in parts)
