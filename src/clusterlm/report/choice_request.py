"""The best way as what to do next: the request to Slurm, the command, and the flags that pin this plan."""

from __future__ import annotations

import shlex
from typing import Any

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.wishes import flag

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


def request_lines(one: Candidate) -> tuple[str, ...]:
    """What the site's Slurm is asked for, as the head of a script; none where there is no Slurm."""
    return ()


def next_step(plan: Plan, model: str, on: str) -> str:
    """The request and the command of the best way; without a command the flags that pin it."""
    best = plan.best
    if best is None:
        return ""
    command = run_command(model, best)
    lines = request_lines(best)
    if command is None:
        what = "THE SAME AGAIN, EACH CHOICE IN ITS FLAG"
        return "\n".join([*_titled("REQUEST", lines), what, settings_command(plan, model, best, on)])
    return "\n".join([*_titled("REQUEST", (*lines, command))])


def _titled(title: str, lines: tuple[str, ...]) -> list[str]:
    return [title, *lines, ""] if lines else []


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
