"""Learns planning/efficiency.json: python -m benchmarks.speed_fit FILE.csv [--write]

Each engine's constants are fitted by themselves, on the rows of that engine: a pattern search over their logarithms, on
the mean |log(predicted / measured)|, with a pull towards the values that stand as defaults in planning/efficiency.py,
so that a constant which no row tells anything about stays where engineering judgement put it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.speed_prior import (
    FIXED,
    KIN,
    REACHABLE,
    REACHABLE_MEMORY,
    UNMEASURED_STORED,
    bounded,
    generation_of,
    start_of,
)
from benchmarks.speed_rows.measured import Measured, measurements, predicted_value
from clusterlm.planning.efficiency import Generating, Learned, Stored, Training
from clusterlm.planning.speed import features
from clusterlm.planning.work import work_of

FILE = Path(__file__).parents[1] / "src/clusterlm/planning/efficiency.json"
PULL = 0.01
"""Weight of the squared logarithm of a constant over its default, for each row's worth of error."""
SMOOTH = 0.03
"""Errors below this count as if squared."""


# Constants as a flat table of logarithms, and back.


def names_of(kind: str, rows: Iterable[Measured]) -> list[str]:
    """The constants of an engine, and of each way of storing matrices that its rows have."""
    of_engine = Training if kind == "training" else Generating
    names = [field.name for field in fields(of_engine) if field.name not in ("stored", "eager_after_tokens")]
    stored = set()
    for row in rows:
        work = work_of(row.asked.case.shape, row.asked.case.workload)
        if work.stored:
            stored.add(
                work.stored + ("-experts" if work.mixtures and row.asked.case.workload.task == "generate" else "")
            )
    return names + [f"{name}.{field.name}" for name in sorted(stored) for field in fields(Stored)]


def built(kind: str, key: str, values: Mapping[str, float]) -> Any:
    stored: dict[str, dict[str, float]] = defaultdict(dict)
    plain = {}
    for name, value in values.items():
        if "." in name:
            stored[name.split(".")[0]][name.split(".")[1]] = value
        else:
            plain[name] = value
    of_engine = Training if kind == "training" else Generating
    plain |= FIXED.get((kind, key), {})
    return of_engine(**plain, stored={key: Stored(**each) for key, each in stored.items()})


def loss(
    kind: str, key: str, values: Mapping[str, float], rows: Sequence[Measured], starts: Mapping[str, float]
) -> float:
    known = learned_of(kind, key, built(kind, key, values))
    total = 0.0
    for row in rows:
        error = math.log(predicted_value(row.asked, known) / row.value)
        total += math.sqrt(error * error + SMOOTH * SMOOTH)
    pull = sum(math.log(values[name] / starts[name]) ** 2 for name in values)
    return total + PULL * min(len(rows), 20) * pull


def learned_of(kind: str, key: str, engine: Any) -> Learned:
    generating = {key: engine} if kind == "generating" else {}
    training = {key: engine} if kind == "training" else {}
    return Learned(generating, training, REACHABLE, REACHABLE_MEMORY, {}, {})


def fit(
    kind: str,
    key: str,
    rows: Sequence[Measured],
    kin: Mapping[str, float],
    start: Mapping[str, float] | None = None,
    sweeps: int = 40,
) -> dict[str, float]:
    """Pattern search: each constant in turn by a factor that grows where it helped and shrinks where it did not."""
    names = names_of(kind, rows)
    starts = {name: start_of(kind, key, name, kin) for name in names}
    values = {name: (start or {}).get(name, starts[name]) for name in names}
    steps = dict.fromkeys(names, 0.3)
    best = loss(kind, key, values, rows, starts)
    for _ in range(sweeps):
        before = best
        for name in names:
            for direction in (1, -1):
                tried = values | {name: bounded(name, values[name] * math.exp(direction * steps[name]))}
                found = loss(kind, key, tried, rows, starts)
                if found < best - 1e-9:
                    values, best = tried, found
                    steps[name] = min(1.0, steps[name] * 1.6)
                    break
            else:
                steps[name] = max(0.004, steps[name] * 0.5)
        if before - best < 1e-5 * before and max(steps.values()) < 0.02:
            break
    return values


def groups(rows: Iterable[Measured]) -> dict[tuple[str, str], list[Measured]]:
    found: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for row in rows:
        found[row.group].append(row)
    return dict(found)


def errors(kind: str, key: str, values: Mapping[str, float], rows: Iterable[Measured]) -> list[float]:
    known = learned_of(kind, key, built(kind, key, values))
    return [math.log(predicted_value(row.asked, known) / row.value) for row in rows]


def report(name: str, found: Sequence[float]) -> str:
    relative = sorted(abs(math.exp(error) - 1) for error in found)
    within = sum(abs(error) <= math.log(1.5) for error in found) / len(found)
    return f"{name}: {len(found)} rows, median {statistics.median(relative):.1%}, within 1.5x {within:.1%}"


def spread_of(found: Sequence[float]) -> float:
    """80 % of the measurements lie within this factor of the prediction."""
    ordered = sorted(abs(error) for error in found)
    return math.exp(ordered[min(len(ordered) - 1, math.ceil(0.8 * len(ordered)) - 1)])


Name = Callable[[Measured], tuple[str, ...]]
"""What rows are left out together."""


def without(*names: str) -> Name:
    return lambda row: tuple(str(getattr(row, name)) for name in names)


@dataclass(frozen=True)
class Engine:
    kind: str
    key: str
    rows: list[Measured]
    values: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.key}"


def learn(rows: Iterable[Measured]) -> dict[str, Engine]:
    """Each engine's constants, kin before those that learn from them."""
    found: dict[str, Engine] = {}
    for (kind, key), mine in sorted(groups(rows).items(), key=lambda one: generation_of(one[0])):
        kin = found.get(KIN.get(f"{kind}: {key}", ""))
        one = Engine(kind, key, mine, learned_from(kind, key, mine, kin.values if kin else {}))
        found[one.name] = one
    return found


def learned_from(kind: str, key: str, rows: Sequence[Measured], kin: Mapping[str, float]) -> dict[str, float]:
    """An engine stores matrices as its kin do where no row of its own tells; without any row it is as its kin."""
    if not rows:
        return dict(kin)
    return {name: value for name, value in kin.items() if "." in name} | fit(kind, key, rows, kin)


def held_out(engines: Mapping[str, Engine], together: Name) -> dict[str, list[tuple[Measured, float]]]:
    """Errors of all rows by engine, each predicted by constants that the rows left out with it have not taught: neither
    its engine's nor its kin's."""
    found: dict[str, list[tuple[Measured, float]]] = {name: [] for name in engines}
    for left_out in sorted({together(row) for one in engines.values() for row in one.rows}):
        known: dict[str, dict[str, float]] = {}
        for name, one in engines.items():
            mine = [row for row in one.rows if together(row) == left_out]
            if mine:
                values = learned_without(engines, name, left_out, together, known)
                found[name] += zip(mine, errors(one.kind, one.key, values, mine), strict=True)
    return found


def learned_without(
    engines: Mapping[str, Engine],
    name: str,
    left_out: tuple[str, ...],
    together: Name,
    known: dict[str, dict[str, float]],
) -> dict[str, float]:
    if name not in engines:
        return {}
    if name not in known:
        one, parent = engines[name], KIN.get(name, "")
        kin = learned_without(engines, parent, left_out, together, known)
        others = [row for row in one.rows if together(row) != left_out]
        same_kin = parent not in engines or kin == engines[parent].values
        whole = len(others) == len(one.rows) and same_kin
        known[name] = one.values if whole else learned_from(one.kind, one.key, others, kin)
    return known[name]


def held_out_errors(path: Path, together: Name) -> list[float]:
    return [error for mine in held_out(learn(measurements(path)), together).values() for _, error in mine]


@dataclass(frozen=True)
class Fitted:
    kind: str
    key: str
    rows: list[Measured]
    values: dict[str, float]
    held_out: list[tuple[Measured, float]]

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.key}"


FEW_ROWS = 20
SEVERAL_MODELS = 6
LEAST_SPREAD, LEAST_SPREAD_OF_FEW = 1.15, 1.3
"""What no count of rows from one bench and one author's machines can narrow; with few models less can be said."""

WITNESSES = 2


def table(fitted: Sequence[Fitted]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    spreads: dict[str, float] = {}
    for one in fitted:
        by_gpu: dict[str, list[float]] = defaultdict(list)
        for row, error in one.held_out:
            by_gpu[f"{one.name}: {row.asked.case.gpu.key}"].append(error)
        whole = [error for _, error in one.held_out]
        for name, found in {one.name: whole, **by_gpu}.items():
            counts[name] = len(found)
            # Few rows tell little of their spread: it is not below that of all rows of the engine.
            floor = spread_of(whole) if len(found) < FEW_ROWS else 1.0
            least = LEAST_SPREAD if len({row.model for row in one.rows}) >= SEVERAL_MODELS else LEAST_SPREAD_OF_FEW
            spreads[name] = round(max(spread_of(found), floor, least), 3)
    return {
        "generating": {one.key: asdict_rounded(one) for one in fitted if one.kind == "generating"},
        "training": {one.key: asdict_rounded(one) for one in fitted if one.kind == "training"},
        "reachable": REACHABLE,
        "reachable_memory": REACHABLE_MEMORY,
        "rows": counts,
        "spread": spreads,
        "features": {one.name: measured_features(one.rows) for one in fitted},
    }


def measured_features(rows: Sequence[Measured]) -> list[str]:
    """What at least so many rows have that one alone is no witness."""
    counts = Counter(name for row in rows for name in features(row.asked.case))
    return sorted(name for name, count in counts.items() if count >= WITNESSES)


def asdict_rounded(one: Fitted) -> dict[str, Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        return float(f"{value:.4g}")

    found = dict(rounded(asdict(built(one.kind, one.key, one.values))))
    found["stored"] = dict(sorted((UNMEASURED_STORED | found["stored"]).items()))
    return found


def print_rows(inside: Sequence[tuple[Measured, float]], outside: Sequence[tuple[Measured, float]]) -> None:
    out = {id(row): error for row, error in outside}
    for row, error in sorted(inside, key=lambda one: -abs(one[1])):
        case = row.asked.case
        work = case.workload
        print(
            f"  {error:+.2f} held out {out[id(row)]:+.2f} {row.model} {work.dtype} {work.quantise} {work.method}"
            f" batch {work.batch} tokens {work.sequence_tokens} {case.gpu.key} x {case.strategy.gpus}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--write", action="store_true", help=f"to {FILE.name}")
    parser.add_argument("--only", default="", help="engines whose name has this")
    parser.add_argument("--quick", action="store_true", help="no cross-validation")
    parser.add_argument("--rows", action="store_true", help="each row's errors")
    chosen = parser.parse_args()
    fitted = []
    engines = learn(measurements(chosen.csv))
    outside = {} if chosen.quick else held_out(engines, without("source", "model"))
    for name, one in engines.items():
        inside = list(zip(one.rows, errors(one.kind, one.key, one.values, one.rows), strict=True))
        fitted.append(Fitted(one.kind, one.key, one.rows, one.values, outside.get(name, inside)))
        if chosen.only in name:
            print(report(name, [error for _, error in inside]))
            print(report("    held out by model", [error for _, error in fitted[-1].held_out]), flush=True)
        if chosen.rows and chosen.only in name:
            print_rows(inside, fitted[-1].held_out)
            print({constant: round(value, 3) for constant, value in one.values.items()})
    print(report("all, held out by model", [error for one in fitted for _, error in one.held_out]))
    if chosen.write:
        FILE.write_text(json.dumps(table(fitted), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
