"""How far the planner's memory is from published measurements, beside two rules that people use.

python -m benchmarks.memory_accuracy FILE.csv [--json] [--all]: each row is predicted from its conditions alone
(benchmarks/rows says which columns those are), by family:

- allocated inference, allocated training: torch's max_memory_allocated
- reserved: torch's max_memory_reserved, against the middle of the predicted range
- vllm: weights + peak activation + what is not torch's, as vLLM's profile run logs them
- oom: runs that failed for lack of memory: the prediction must exceed the card
- card: nvidia-smi, against the need of the physical card
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import NotCovered, Question, question, read_rows
from clusterlm.errors import ClusterlmError
from clusterlm.planning.memory import footprint, phases_per_gpu
from clusterlm.planning.weights import element_bytes, scheme_of, weight_sizes

GIB = 2**30
FAMILIES = ("allocated inference", "allocated training", "reserved", "vllm", "card", "oom")


@dataclass(frozen=True)
class Scored:
    row: dict[str, str]
    family: str
    measured_gib: float | None
    predicted_gib: float | None
    reason: str = ""
    """Why it is not covered."""
    rules: tuple[tuple[str, float], ...] = ()
    free_gib: float | None = None
    """The card's memory less the predicted need."""

    @property
    def error(self) -> float:
        """Signed, relative to the measurement."""
        assert self.predicted_gib is not None and self.measured_gib is not None
        return self.predicted_gib / self.measured_gib - 1


def family(row: dict[str, str]) -> str | None:
    """None for rows that are not to be scored: estimates and suspect ones."""
    quality, metric = row["quality"], row["metric"]
    if quality.startswith(("estimate", "suspect")):
        return None
    if row["status"].startswith("oom"):
        return "oom"
    if "vLLM profile" in metric:
        return "vllm"
    if "allocated" in metric:
        return "allocated inference" if row["task"] in ("inference", "load") else "allocated training"
    if "reserved" in metric:
        return "reserved"
    return "card"


def measured(row: dict[str, str], kind: str) -> float | None:
    value = row["nvidia_smi_gib"] if kind == "card" and row["nvidia_smi_gib"] else row["peak_gib_per_gpu"]
    if not value:
        return None
    gib = float(value)
    # The Qwen3 tables print MiB under a heading of GB; the column of per-GPU GiB has them converted.
    return gib


def predict(asked: Question, kind: str) -> float:
    if asked.only_phases:
        per_gpu = phases_per_gpu(asked.shape, asked.workload, asked.strategy, asked.gpu)
        sums = [max(phase.bytes for phase in phases if phase.name in asked.only_phases) for phases in per_gpu]
        runtime = footprint(asked.shape, asked.workload, asked.strategy, asked.gpu).runtime_bytes
        return (sum(sums) / asked.strategy.gpus + (runtime if kind == "card" else 0)) / GIB
    if asked.lightest_gpu:
        per_gpu = phases_per_gpu(asked.shape, asked.workload, asked.strategy, asked.gpu)
        return min(max(phase.bytes for phase in phases) for phases in per_gpu) / GIB
    found = footprint(asked.shape, asked.workload, asked.strategy, asked.gpu)
    if asked.summed:
        return found.allocated_all_gpus / asked.strategy.gpus / GIB
    if kind == "reserved":
        return (found.reserved_low + found.reserved_high) / 2 / GIB
    if kind == "card" and asked.workload.trains:
        return ((found.reserved_low + found.reserved_high) / 2 + found.runtime_bytes) / GIB
    if kind in ("card", "oom"):
        return found.needed / GIB
    return found.allocated / GIB


def score(row: dict[str, str], kind: str) -> Scored:
    value = measured(row, kind)
    try:
        asked = question(row)
        found = footprint(asked.shape, asked.workload, asked.strategy, asked.gpu)
        free = (asked.gpu.memory_bytes - found.needed) / GIB
        return Scored(row, kind, value, predict(asked, kind), rules=tuple(rules(asked).items()), free_gib=free)
    except NotCovered as reason:
        return Scored(row, kind, value, None, str(reason))
    except (
        ClusterlmError,
        ValueError,
        ArithmeticError,
    ) as problem:  # a model that this engine or strategy has no formula for
        return Scored(row, kind, value, None, f"no formula: {problem}")


def rules(asked: Question) -> dict[str, float]:
    """GiB per GPU by accelerate estimate-memory's rule and by hf-mem's (weights and cache)."""
    shape, workload = asked.shape, asked.workload
    gpus = asked.strategy.gpus if workload.task != "train" or asked.strategy.model_shards > 1 else 1
    scheme = scheme_of(shape, workload.quantise)
    size = element_bytes(workload.dtype)
    # accelerate knows 4, 2, 1 and half a byte; hf-mem reads the headers of the files, right when quantised too.
    rounded = size if scheme is None else 0.5 if scheme.per_weight < 0.8 else 1.0
    weights = weight_sizes(shape, workload.dtype, scheme).total
    accelerate = shape.parameters * (4 * size if workload.trains and workload.method == "full" else 1.2 * rounded)
    tokens = workload.sequence_tokens + workload.new_tokens
    cache = sum(
        layer.mixer.cache_elements_per_token * min(tokens, layer.mixer.window or tokens)
        for layer in shape.layers
        if hasattr(layer.mixer, "cache_elements_per_token")
    )
    hf_mem = weights + workload.batch * cache * element_bytes(workload.dtype)
    return {"accelerate": accelerate / gpus / GIB, "hf-mem": hf_mem / gpus / GIB}


def summary(rows: list[Scored]) -> dict[str, Any]:
    covered = [row for row in rows if row.predicted_gib is not None and row.measured_gib]
    errors = sorted(abs(row.error) for row in covered)
    found: dict[str, Any] = {"rows": len(rows), "covered": len(covered)}
    if errors:
        found |= {
            "median_error": round(statistics.median(errors), 5),
            "p90_error": round(errors[min(len(errors) - 1, int(0.9 * len(errors)))], 5),
            "within_5_percent": round(sum(error <= 0.05 for error in errors) / len(errors), 4),
            "worst_under_prediction": round(min(0.0, min(row.error for row in covered)), 4),
        }
    return found


def oom_summary(rows: list[Scored]) -> dict[str, Any]:
    covered = [row for row in rows if row.predicted_gib is not None]
    right = sum(is_out_of_memory(row) for row in covered)
    share = round(right / len(covered), 4) if covered else None
    return {"rows": len(rows), "covered": len(covered), "labels_right": share}


def is_out_of_memory(row: Scored) -> bool:
    return row.predicted_gib is not None and row.predicted_gib > question(row.row).gpu.memory_bytes / GIB


def false_alarms(rows: list[Scored]) -> dict[str, int]:
    """Training runs that succeeded, and those among them that the prediction calls out of memory."""
    trained = [row for row in rows if row.row["status"] == "ok" and row.family in ("allocated training", "reserved")]
    covered = [row.free_gib for row in trained if row.free_gib is not None]
    return {"rows": len(covered), "called_out_of_memory": sum(free < 0 for free in covered)}


def evaluate(path: Path) -> list[Scored]:
    kinds = [(row, family(row)) for row in read_rows(path)]
    return [score(row, kind) for row, kind in kinds if kind]


def print_report(rows: list[Scored], show_all: bool) -> None:
    for kind in FAMILIES:
        mine = [row for row in rows if row.family == kind]
        if not mine:
            continue
        print(f"\n{kind}: {oom_summary(mine) if kind == 'oom' else summary(mine)}")
        covered = [row for row in mine if row.predicted_gib is not None]
        if kind == "oom":
            worst = [row for row in covered if not is_out_of_memory(row)]
        else:
            print_rules(covered)
            worst = sorted((row for row in covered if row.measured_gib), key=lambda row: -abs(row.error))
        for row in worst if show_all else worst[:10]:
            print("  " + describe(row))
        for reason, count in Counter(row.reason for row in mine if row.reason).most_common():
            print(f"  not covered, {count}: {reason}")


def print_rules(covered: list[Scored]) -> None:
    for index, name in enumerate(("accelerate", "hf-mem")):
        errors = [abs(row.rules[index][1] / row.measured_gib - 1) for row in covered if row.measured_gib]
        if errors:
            within = sum(error <= 0.05 for error in errors) / len(errors)
            print(f"  {name}'s rule on the same rows: median {statistics.median(errors):.1%}, within 5 %: {within:.0%}")


def describe(row: Scored) -> str:
    asked = row.row
    value = f"{row.measured_gib:.2f}" if row.measured_gib else "OOM"
    error = f" {row.error:+.1%}" if row.measured_gib else ""
    words = [
        "hf_id",
        "task",
        "dtype",
        "quantisation",
        "seq_len",
        "micro_batch",
        "lora",
        "parallelism",
        "n_gpus",
        "attn_impl",
        "software",
    ]
    return f"{value} GiB, predicted {row.predicted_gib:.2f}{error}: " + " | ".join(
        asked[word][:42] for word in words if asked[word]
    )


def coverage(rows: list[Scored]) -> dict[str, Any]:
    exact = [row for row in rows if row.row["quality"].split(";")[0] == "exact" and row.row["status"] == "ok"]
    covered = sum(row.predicted_gib is not None for row in exact)
    return {"rows": len(exact), "covered": covered, "share": round(covered / len(exact), 4) if exact else None}


def as_json(rows: list[Scored]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in FAMILIES:
        mine = [row for row in rows if row.family == kind]
        if mine:
            found[kind] = oom_summary(mine) if kind == "oom" else summary(mine)
    reasons = Counter(row.reason for row in rows if row.reason)
    found["successful_runs"] = false_alarms(rows)
    return found | {"coverage_of_exact": coverage(rows), "not_covered": dict(reasons.most_common())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--all", action="store_true", help="every row, worst first")
    chosen = parser.parse_args()
    rows = evaluate(chosen.csv)
    if chosen.json:
        print(json.dumps(as_json(rows)))
        return 0
    print_report(rows, chosen.all)
    print(f"\nsuccessful runs: {false_alarms(rows)}")
    print(f"coverage of ok rows of quality exact: {coverage(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
