"""A plan on a cluster as JSON values; docs/reference/plan-json.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusterlm.planning.candidates import Candidate, Rejected
from clusterlm.planning.duration import Duration
from clusterlm.planning.planner import Plan
from clusterlm.planning.rejections import Rejection
from clusterlm.planning.remedies import Remedy
from clusterlm.planning.room import available_bytes
from clusterlm.planning.verdict import Verdict
from clusterlm.report.choice import choice_headline
from clusterlm.report.choice_command import run_command
from clusterlm.report.choice_flags import pinning_flags
from clusterlm.report.choice_notes import notes
from clusterlm.report.choice_request import request_lines
from clusterlm.report.plan_values import plan_values

SCHEMA = 2


def choice_values(plan: Plan, verdict: Verdict, model: str, on: Sequence[str]) -> dict[str, Any]:
    """One object; amounts in bytes, times in seconds. `verdict`: of the best way, or of what comes nearest.

    `on`: the words that name the cluster, as the user gave them: --on lumi, or --cluster FILE.
    """
    best = plan.best
    return {
        "schema": SCHEMA,
        "fits": best is not None,
        "tight": best is not None and best.tight,
        "headline": choice_headline(plan),
        "cluster": _cluster(plan),
        "wishes": plan.wishes.given(),
        "prefer": plan.prefer,
        "amount": _amount(best) if best else None,
        "best": _best(plan, best, model, on) if best else None,
        "memory": plan_values(verdict),
        "candidates": [_candidate(plan, one) for one in plan.candidates],
        "rejected": [_rejection(one) for one in plan.rejected],
        "unpinned": _candidate(plan, plan.unpinned) if plan.unpinned else None,
        "closest": _rejected(plan.closest) if plan.closest else None,
        "remedies": [_remedy(plan, one) for one in plan.remedies],
        "notes": notes(plan, verdict, on[1]),
    }


def _cluster(plan: Plan) -> dict[str, Any]:
    cluster = plan.cluster
    return {
        "name": cluster.name,
        "title": cluster.title,
        "site": cluster.site,
        "status": cluster.status,
        "successor": cluster.successor,
        "slurm": cluster.slurm,
        "billing_unit": cluster.billing.unit if cluster.billing else None,
    }


def _amount(best: Candidate) -> dict[str, Any]:
    amount = best.amount
    return {"tokens": amount.tokens, "records": amount.records, "assumed": amount.assumed}


def _best(plan: Plan, best: Candidate, model: str, on: Sequence[str]) -> dict[str, Any]:
    pace = best.duration.pace
    return {
        **_candidate(plan, best),
        "step": {
            "seconds": pace.step_seconds,
            "parts": dict(pace.parts),
            "tokens_per_second": pace.tokens_per_second,
            "spread": pace.spread,
            "basis": pace.basis,
        },
        "request": list(request_lines(best, model)),
        "command": run_command(plan, model, best, on),
    }


def _candidate(plan: Plan, one: Candidate) -> dict[str, Any]:
    case, strategy = one.case, one.case.strategy
    return {
        "partition": one.place.partition_name,
        "node": one.place.node_name,
        "gpu": one.place.gpu.key,
        "gpus": strategy.gpus,
        "nodes": one.nodes,
        "allocated_gpus": one.allocated_gpus,
        "idle_gpus": one.idle_gpus,
        "strategy": one.wishes.strategy,
        "copies": one.wishes.copies,
        "offload": strategy.offload,
        "gradient_checkpointing": case.workload.checkpointing,
        "batch": case.workload.batch,
        "accumulation_steps": case.accumulation_steps,
        "needed": one.needed,
        "available": available_bytes(case),
        "tight": one.tight,
        "duration": _duration(one.duration),
        "gpu_hours": one.gpu_hours,
        "billing_units": one.billing_units,
        "flags": pinning_flags(plan, one),
    }


def _duration(duration: Duration) -> dict[str, Any]:
    """Of all jobs together; `asked` of each."""
    return {
        "low": duration.low,
        "middle": duration.middle,
        "high": duration.high,
        "load": duration.load,
        "jobs": duration.jobs,
        "asked": duration.asked,
    }


def _rejection(one: Rejection) -> dict[str, Any]:
    instead = one.instead
    return {
        **_rejected(one.nearest_miss),
        "fewest_gpus": one.fewest_gpus,
        "most_gpus": one.most_gpus,
        "instead": {"strategy": instead.wishes.strategy, "gpus": instead.case.strategy.gpus} if instead else None,
    }


def _rejected(one: Rejected) -> dict[str, Any]:
    return {
        "node": one.place.node_name,
        "gpu": one.place.gpu.key,
        "strategy": one.way.strategy,
        "gpus": one.way.gpus,
        "offload": one.way.offload or "none",
        "possible": one.case is not None,
        "because": one.item,
        "on_host": one.on_host,
        "needed": one.needed,
        "available": one.available,
    }


def _remedy(plan: Plan, one: Remedy) -> dict[str, Any]:
    return {"words": one.words, "flags": one.flags, "candidate": _candidate(plan, one.candidate)}
