"""The best way as what to do next: the request to Slurm, the command, and the flags that pin this plan."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import Any

from clusterlm.cluster import NodeType
from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.wishes import flag
from clusterlm.slurm.job import Job
from clusterlm.slurm.script import script

ACCOUNT = "ACCOUNT"
"""Stands for the user's own, which no profile knows."""

ON_ONE_NODE = ("single", "pipeline")
"""Strategies that `clusterlm generate` has, by itself."""
UNPINNED = ("gpus_per_node", "prefer")
"""Wishes that the cluster answers, or that a pinned plan has no use for."""


def pinning_flags(plan: Plan, one: Candidate) -> str:
    """What gives exactly this way when it is added to `clusterlm plan MODEL --on CLUSTER`."""
    wishes = one.wishes.given() | {"partition": one.place.partition_name}
    if plan.wishes.gpu or len({place.node_name for place in _same_partition(plan, one)}) > 1:
        wishes["gpu"] = one.place.gpu.key
    kept = {name: value for name, value in wishes.items() if name not in UNPINNED}
    return " ".join(word for name, value in kept.items() for word in _flag(name, value))


def _same_partition(plan: Plan, one: Candidate) -> list[Any]:
    return [other.place for other in plan.candidates if other.place.partition_name == one.place.partition_name]


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{name.replace('_', '-')}"]
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return [flag(name), shlex.quote(text)]


def settings_command(plan: Plan, model: str, one: Candidate, on: str) -> str:
    return f"clusterlm plan {shlex.quote(model)} --on {shlex.quote(on)} {pinning_flags(plan, one)}"


def request_lines(one: Candidate, model: str) -> tuple[str, ...]:
    """The #SBATCH lines in the site's own spelling; none where there is no Slurm, or none any more."""
    cluster = one.place.cluster
    if not cluster.slurm or cluster.status == "retired":
        return ()
    return tuple(line for line in script(cluster, job_of(one, model)).splitlines() if line.startswith("#SBATCH"))


def job_of(one: Candidate, model: str) -> Job:
    """With the share of each node's CPUs and RAM that belongs to its GPUs."""
    place, node = one.place, one.place.node
    task, needs_account = one.case.workload.task, place.cluster.request.account
    on_node = one.allocated_gpus // one.nodes
    room = place.host_bytes(one.case.strategy.gpus)
    return Job(
        name=f"{task}-{PurePath(model).name}",
        partition=place.partition_name,
        node_type=place.node_name,
        nodes=one.nodes,
        gpus_per_node=on_node,
        seconds=one.duration.asked,
        command=("clusterlm", task, model),
        output="slurm-%j.out",
        cpus_per_task=_cpus(node, on_node),
        memory_gib=None if room is None else room // 2**30,
        account=ACCOUNT if needs_account and place.cluster.request.account_name is None else None,
    )


def _cpus(node: NodeType, gpus: int) -> int | None:
    """As Slurm counts them; None where the profile does not say."""
    there = node.cpus or node.cores
    if there is None:
        return None
    threads = there // node.cores if node.cores else 1
    share = node.cores_per_gpu * threads * gpus if node.cores_per_gpu else there * gpus // node.gpus
    return min(share, there)


def next_step(plan: Plan, model: str, on: str) -> str:
    """The request to Slurm, and the command of the best way; where there is none yet, the flags that pin it."""
    best = plan.best
    if best is None:
        return ""
    request, command = request_lines(best, model), run_command(model, best)
    if command:
        parts = [["COMMAND, IN THE JOB" if request else "COMMAND", command]]
    else:
        parts = [["SETTINGS (no command of clusterlm runs this yet)", settings_command(plan, model, best, on)]]
    if request:
        parts.insert(0, ["REQUEST TO SLURM", *request])
    return "\n\n".join("\n".join(part) for part in parts)


def run_command(model: str, one: Candidate) -> str | None:
    """None where clusterlm has no command for it yet."""
    case = one.case
    workload = case.workload
    one_process = one.wishes.strategy in ON_ONE_NODE and not one.wishes.copies and one.nodes == 1
    if workload.task != "generate" or workload.software.engine != "transformers" or not one_process:
        return None
    words = ["clusterlm", "generate", shlex.quote(model), "INPUT", "-o", "OUTPUT"]
    words += ["--max-new-tokens", str(workload.new_tokens)]
    if one.wishes.dtype:
        words += ["--dtype", one.wishes.dtype]
    if workload.quantise:
        words += ["--quantize", workload.quantise]
    return " ".join(words)
