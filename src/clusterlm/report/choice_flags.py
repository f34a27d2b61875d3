"""A way as flags: what pins a plan when it is added to the command that made it."""

from __future__ import annotations

import shlex
from typing import Any

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.wishes import said

UNPINNED = ("gpus_per_node", "prefer")
"""Wishes that the cluster answers, or that a pinned plan has no use for."""


def pinning_flags(plan: Plan, one: Candidate) -> str:
    """What gives exactly this way when it is added to `clusterlm plan MODEL --on CLUSTER`."""
    return " ".join(as_flag(name, value) for name, value in pinned(plan, one).items())


def pinned(plan: Plan, one: Candidate) -> dict[str, Any]:
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
