"""The best way as what to do next: the request to Slurm, the command, and the flags that pin this plan."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.wishes import said
from clusterlm.runs.request import job_of
from clusterlm.slurm.script import script

IN_ONE_PROCESS = ("single", "pipeline")
"""Strategies that `clusterlm generate` has by itself; its jobs have several processes, each with a copy."""
QUANTISED = {"int8": "int8", "nf4": "nf4", "nf4-dq": "nf4"}
"""What its --quantize takes, by a plan's: its nf4 quantises the scales too."""
ATTENTION = (None, "sdpa")
"""What it computes with."""
UNPINNED = ("gpus_per_node", "prefer")
"""Wishes that the cluster answers, or that a pinned plan has no use for."""
PLACING = ("account", "partition", "gpu", "gpus", "copies")


def pinning_flags(plan: Plan, one: Candidate) -> str:
    """What gives exactly this way when it is added to `clusterlm plan MODEL --on CLUSTER`."""
    return " ".join(as_flag(name, value) for name, value in _pinned(plan, one).items())


def _pinned(plan: Plan, one: Candidate) -> dict[str, Any]:
    wishes = one.wishes.given() | {"partition": one.place.partition_name}
    if plan.wishes.gpu or len({place.node_name for place in _same_partition(plan, one)}) > 1:
        wishes["gpu"] = one.place.gpu.key
    return {name: value for name, value in wishes.items() if name not in UNPINNED}


def _same_partition(plan: Plan, one: Candidate) -> list[Any]:
    return [other.place for other in plan.candidates if other.place.partition_name == one.place.partition_name]


def as_flag(name: str, value: Any) -> str:
    """As a shell takes it: `--lora-targets q_proj,v_proj`."""
    if isinstance(value, bool):
        return said(name, value)
    return said(name, shlex.quote(",".join(value) if isinstance(value, tuple) else str(value)))


def settings_command(plan: Plan, model: str, one: Candidate, on: Sequence[str]) -> str:
    """`on`: the words that name the cluster, as the user gave them: --on lumi, or --cluster FILE."""
    return f"clusterlm plan {shlex.quote(model)} {shlex.join(on)} {pinning_flags(plan, one)}"


def request_lines(one: Candidate, model: str) -> tuple[str, ...]:
    """The #SBATCH lines in the site's own spelling; none where there is no Slurm, or none any more."""
    if not _takes_jobs(one):
        return ()
    return tuple(
        line for line in script(one.place.cluster, job_of(one, model)).splitlines() if line.startswith("#SBATCH")
    )


def next_step(plan: Plan, model: str, on: Sequence[str]) -> str:
    """The request to Slurm, the command of the best way where there is one yet, and the flags that pin this plan."""
    best = plan.best
    if best is None:
        return ""
    request, command = request_lines(best, model), run_command(plan, model, best, on)
    parts = [["REQUEST TO SLURM", *request]] if request else []
    if command:
        parts.append(["COMMAND (it writes the batch script, and queues it)" if request else "COMMAND", command])
    title = "SETTINGS (they repeat this plan)" if command else "SETTINGS (no command of clusterlm runs this yet)"
    parts.append([title, settings_command(plan, model, best, on)])
    return "\n\n".join("\n".join(part) for part in parts)


def run_command(plan: Plan, model: str, one: Candidate, on: Sequence[str]) -> str | None:
    """None where clusterlm has no command yet that does just this. `on`: as for settings_command()."""
    workload = one.case.workload
    if not _generates(one):
        return None
    words = ["clusterlm", "generate", shlex.quote(model), "INPUT", "-o", "OUTPUT"]
    words += ["--max-new-tokens", str(workload.new_tokens)]
    if one.wishes.dtype:
        words += ["--dtype", one.wishes.dtype]
    if workload.quantise:
        words += ["--quantize", QUANTISED[workload.quantise]]
    if one.case.strategy.gpus == 1 < _visible_gpus(one):
        words += ["--device-map", "cuda:0"]  # by itself it lays a model over all GPUs that it sees
    if plan.wishes.batch:
        words += ["--max-batch-tokens", str(workload.batch * one.case.tokens_each)]
    if _takes_jobs(one):
        words += [shlex.join(on), placing_flags(plan, one)]
    return " ".join(words)


def placing_flags(plan: Plan, one: Candidate) -> str:
    """Of pinning_flags() those that `clusterlm generate --on` takes: where, how many; and who pays."""
    pinned = _pinned(plan, one)
    if one.way.count_of_copies > 1:
        pinned["copies"] = one.way.count_of_copies
    if account := job_of(one, "").account:
        pinned["account"] = account
    return " ".join(as_flag(name, pinned[name]) for name in PLACING if name in pinned)


def _takes_jobs(one: Candidate) -> bool:
    cluster = one.place.cluster
    return cluster.slurm and cluster.status != "retired"


def _generates(one: Candidate) -> bool:
    """Whether `clusterlm generate` runs it: copies of a decoder, each in one process on one node."""
    case = one.case
    workload, stored = case.workload, case.shape.quantisation
    loadable = (workload.quantise or "int8") in QUANTISED and (stored is None or stored.method in QUANTISED)
    by_transformers = workload.task == "generate" and workload.software.engine == "transformers"
    is_decoder = not case.shape.encoder_layers
    return by_transformers and loadable and is_decoder and one.wishes.attention in ATTENTION and _is_launched(one)


def _is_launched(one: Candidate) -> bool:
    """Whether its processes get just the GPUs of the plan: each lays its copy over all that it sees."""
    wishes, gpus = one.wishes, one.case.strategy.gpus
    if one.way.count_of_copies == 1:
        return wishes.strategy in IN_ONE_PROCESS and one.nodes == 1 and gpus in (1, _visible_gpus(one))
    return _takes_jobs(one) and wishes.strategy in (*IN_ONE_PROCESS, "ddp") and gpus == one.allocated_gpus


def _visible_gpus(one: Candidate) -> int:
    """Of its node: without Slurm all that are there."""
    place = one.place
    return one.allocated_gpus // one.nodes if place.cluster.slurm else place.node.gpus
