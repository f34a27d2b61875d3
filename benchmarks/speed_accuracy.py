"""How far the planner's speed is from published measurements, beside two rules that people use.

python -m benchmarks.speed_accuracy FILE.csv [--json] [--all] [--held-out]: each row is predicted from its conditions
alone (benchmarks/speed_rows says which columns those are), by family: a source and its engine.

- error: |predicted / measured - 1| in tokens per second
- within 1.5: rows whose prediction is off by no more than this factor, either way
- inside the spread: rows within the 80 % interval that the prediction itself states
- --held-out: besides, with constants learned anew without the rows that are judged: without each model of each source,
  and without each source (minutes)

The peers, on the same rows: the roofline of the data sheet without a learned constant, and 6 N D at 40 % of the peak.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows.conditions import read_rows
from benchmarks.speed_fit import held_out_errors, without
from benchmarks.speed_rows import Asked, NotCovered, asked_by
from benchmarks.speed_rows.measured import measured_value, predicted_value
from clusterlm.errors import ClusterlmError
from clusterlm.planning.efficiency import learned
from clusterlm.planning.speed import confidence, tokens_of_a_step
from clusterlm.planning.work import work_of

FACTOR = 1.5
MFU = 0.4
PEERS = ("roofline", "6ND at 40 %")
HELD_OUT = {"without its model": ("source", "model"), "without its source": ("source",)}


@dataclass(frozen=True)
class Scored:
    row: Mapping[str, str]
    measured: float | None
    predicted: float | None
    spread: float = 1.0
    reason: str = ""
    """Why it is not covered."""
    peers: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        return f"{self.row.get('source_key', '')}: {self.row.get('engine', '')[:28]}"

    @property
    def log_error(self) -> float:
        assert self.predicted and self.measured
        return math.log(self.predicted / self.measured)


def score(row: Mapping[str, str]) -> Scored:
    try:
        value = measured_value(row)
        asked = asked_by(row)
        predicted = predicted_value(asked, learned())
        spread, _ = confidence(asked.case, learned())
        peers = (roofline(asked), six_n_d(asked))
    except NotCovered as reason:
        return Scored(row, None, None, reason=str(reason))
    except (ClusterlmError, ValueError, ArithmeticError, KeyError) as problem:
        return Scored(row, None, None, reason=f"no formula: {type(problem).__name__} {problem}"[:80])
    if not value or not math.isfinite(predicted) or predicted <= 0:
        return Scored(row, None, None, reason="no speed in the row" if not value else "no finite prediction")
    return Scored(row, value, predicted, spread, peers=peers)


def roofline(asked: Asked) -> float:
    """Each weight and the cache read once a token at the bandwidth, each product at the peak, of the data sheet."""
    case, gpu = asked.case, asked.case.gpu
    workload, work = case.workload, work_of(case.shape, case.workload)
    peak, speed = gpu.half_tflops * 1e12, gpu.memory_gb_per_second * 1e9
    tokens = float(tokens_of_a_step(case))
    if workload.task == "train":
        return tokens / (six_n(asked) * tokens / peak / case.strategy.gpus)
    prompt = 2 * work.active_weights * workload.tokens / peak
    context = workload.sequence_tokens + workload.new_tokens / 2
    read = work.weight_bytes(workload.batch) + workload.batch * 2 * work.cache_elements(context)
    seconds = prompt * (asked.counted != "decode") + workload.new_tokens * read / speed
    tokens += case.workload.tokens * (asked.counted == "all")
    return tokens / (seconds / case.strategy.tensor_degree)


def six_n(asked: Asked) -> float:
    """Floating-point operations for one trained token by the rule: 6 for each parameter; for frozen ones 4."""
    return (6 if asked.case.workload.method == "full" else 4) * asked.case.shape.active_parameters


def six_n_d(asked: Asked) -> float:
    """Generation has no such rule: there 2 N a token at the same share of the peak."""
    case = asked.case
    each = six_n(asked) if case.workload.task == "train" else 2 * case.shape.active_parameters
    return case.strategy.gpus * case.gpu.half_tflops * 1e12 * MFU / each


def summary(log_errors: Iterable[float]) -> dict[str, Any]:
    found = list(log_errors)
    errors = sorted(abs(math.exp(error) - 1) for error in found)
    if not errors:
        return {"covered": 0}
    return {
        "covered": len(errors),
        "median_error": round(statistics.median(errors), 4),
        "p90_error": round(errors[min(len(errors) - 1, int(0.9 * len(errors)))], 4),
        "within_1.5": round(sum(abs(error) <= math.log(FACTOR) for error in found) / len(found), 4),
    }


def scores(rows: Sequence[Scored]) -> dict[str, Any]:
    covered = [row for row in rows if row.predicted]
    found: dict[str, Any] = {"rows": len(rows)} | summary(row.log_error for row in covered)
    if covered:
        inside = sum(abs(row.log_error) <= math.log(row.spread) for row in covered)
        found["inside_spread"] = round(inside / len(covered), 4)
    return found


def peer_scores(rows: Sequence[Scored]) -> dict[str, Any]:
    covered = [row for row in rows if row.predicted and row.measured]
    return {
        name: summary(math.log(row.peers[index] / row.measured) for row in covered if row.measured)
        for index, name in enumerate(PEERS)
    }


def families(rows: Sequence[Scored]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        found[row.family].append(row)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


def as_json(rows: Sequence[Scored]) -> dict[str, Any]:
    return {
        "all": scores(rows),
        "coverage": round(sum(bool(row.predicted) for row in rows) / max(1, len(rows)), 4),
        "not_covered": dict(Counter(row.reason for row in rows if row.reason).most_common()),
        "peers": peer_scores(rows),
        "families": {name: scores(mine) for name, mine in families(rows).items()},
    }


def print_report(rows: Sequence[Scored], show_all: bool) -> None:
    print(f"all rows: {scores(rows)}")
    for name, found in peer_scores(rows).items():
        print(f"  {name} on the same rows: {found}")
    for reason, count in Counter(row.reason for row in rows if row.reason).most_common():
        print(f"  not covered, {count}: {reason}")
    print("\nby source and engine:")
    for name, mine in families(rows).items():
        print(f"  {name}: {scores(mine)}")
    print("\nworst rows:")
    covered = sorted((row for row in rows if row.predicted), key=lambda row: -abs(row.log_error))
    for row in covered if show_all else covered[:25]:
        print("  " + describe(row))


def describe(row: Scored) -> str:
    words = ("source_key", "hf_id", "model", "task", "engine", "dtype", "seq_len", "batch", "n_gpus", "gpu")
    told = " | ".join(row.row[word][:34] for word in words if row.row.get(word))
    return f"{row.measured:.4g} tok/s, predicted {row.predicted:.4g}, x {math.exp(row.log_error):.2f}: {told}"


def held_out_scores(path: Path) -> dict[str, Any]:
    return {name: summary(held_out_errors(path, without(*keys))) for name, keys in HELD_OUT.items()}


def evaluate(path: Path) -> list[Scored]:
    return [score(row) for row in read_rows(path)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--all", action="store_true", help="every row, worst first")
    parser.add_argument("--held-out", action="store_true", help="also learn without the rows that are judged")
    chosen = parser.parse_args()
    rows = evaluate(chosen.csv)
    others = held_out_scores(chosen.csv) if chosen.held_out else {}
    if chosen.json:
        print(json.dumps(as_json(rows) | ({"held_out": others} if others else {})))
        return 0
    print_report(rows, chosen.all)
    for name, found in others.items():
        print(f"\nlearned {name}: {found}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
