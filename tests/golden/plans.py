"""The golden plans: the documents' machines x 12 models from 0.1 to 405 billion parameters x every task.

`python -m tests.golden.plans` writes them anew; review the difference by hand before it is committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clusterlm.cluster.files import find_cluster
from clusterlm.model.find import find_model
from clusterlm.planning.candidates import Candidate, Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.wishes import Wishes

FOLDER = Path(__file__).parent / "plans"
MACHINES = ("puhti", "mahti", "lumi", "snellius", "vsc5", "soundbendor")
MODELS = (
    "gpt2",
    "Qwen/Qwen2.5-0.5B",
    "EleutherAI/gpt-neo-1.3B",
    "facebook/galactica-6.7b",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-3.1-8B",
    "EleutherAI/gpt-neox-20b",
    "facebook/opt-30b",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-3.1-70B",
    "bigscience/bloom",
    "meta-llama/Llama-3.1-405B",
)
TASKS = {
    "generate": Wishes(task="generate"),
    "embed": Wishes(task="embed"),
    "full": Wishes(method="full"),
    "lora": Wishes(method="lora"),
    "qlora": Wishes(method="qlora"),
}


def golden(machine: str, model: str) -> dict[str, Any]:
    search = Search(find_model(model))
    cluster = find_cluster(machine)
    return {task: summary(plan(search, cluster, wishes)) for task, wishes in TASKS.items()}


def summary(found: Plan) -> dict[str, Any]:
    best = found.best
    if best is None:
        closest = found.closest
        assert closest is not None
        return {
            "fits": False,
            "closest": f"{closest.way.strategy} on {closest.way.gpus}",
            "item": closest.item,
            "needed_gib": rounded(closest.needed / 2**30),
            "available_gib": rounded(closest.available / 2**30),
            "on_host": closest.on_host,
            "would_fit_with": [remedy.words for remedy in found.remedies],
        }
    return {
        "fits": True,
        **settings(best),
        "needed_gib": rounded(best.needed / 2**30),
        "hours": rounded(best.duration.middle / 3600),
        "gpu_hours": rounded(best.gpu_hours),
        "billing_units": None if best.billing_units is None else rounded(best.billing_units),
        "time_limit_minutes": best.duration.asked // 60,
        "jobs": best.duration.jobs,
        "tight": best.tight,
    }


def settings(one: Candidate) -> dict[str, Any]:
    strategy, workload = one.case.strategy, one.case.workload
    found: dict[str, Any] = {
        "partition": one.place.partition_name,
        "node": one.place.node_name,
        "gpus": strategy.gpus,
        "nodes": one.nodes,
        "strategy": one.wishes.strategy,
        "offload": strategy.offload,
        "batch": workload.batch,
    }
    if workload.trains:
        return found | {"accumulation": one.case.accumulation_steps, "checkpointing": workload.checkpointing}
    return found | {"copies": strategy.data_degree}


def rounded(number: float) -> float:
    """To three significant digits."""
    return float(f"{number:.3g}")


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for machine in MACHINES:
        plans = {model: golden(machine, model) for model in MODELS}
        (FOLDER / f"{machine}.json").write_text(json.dumps(plans, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
