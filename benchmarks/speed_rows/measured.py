"""A row of published speeds beside its question: the measured value, and the predicted one in the same terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows.conditions import NotCovered, read_rows
from benchmarks.speed_rows import asked_by
from benchmarks.speed_rows.conditions import Asked
from clusterlm.planning.efficiency import Learned, generating_key, training_key
from clusterlm.planning.speed import step_parts, tokens_of_a_step


@dataclass(frozen=True)
class Measured:
    asked: Asked
    value: float
    """Tokens a second, of all GPUs, as the row counts them."""
    source: str
    model: str

    @property
    def group(self) -> tuple[str, str]:
        workload = self.asked.case.workload
        if workload.task == "train":
            return "training", training_key(workload)
        return "generating", generating_key(workload)


def measured_value(row: Mapping[str, str]) -> float | None:
    """Of all GPUs together."""
    total, each = row["tokens_per_s_total"], row["tokens_per_s_per_gpu"]
    if total:
        return float(total)
    count = row["n_gpus"] if row["n_gpus"].isdigit() else "1"
    return float(each) * max(1, int(count)) if each else None


def predicted_value(asked: Asked, known: Learned) -> float:
    """Tokens a second, of all GPUs, as the row counts them."""
    case = asked.case
    parts = step_parts(case, asked.links, known)
    seconds, tokens = sum(parts.values()) * asked.factor, float(tokens_of_a_step(case))
    if asked.counted == "all":
        tokens += case.workload.tokens * case.strategy.data_degree
    if asked.counted == "decode":
        seconds -= parts["prefill"] * asked.factor
    return tokens / seconds


def measurements(path: Path) -> list[Measured]:
    found = []
    for row in read_rows(path):
        value = measured_value(row)
        try:
            asked = asked_by(row)
        except NotCovered:
            continue
        if value:
            found.append(Measured(asked, value, row["source_key"], row["hf_id"] or row["model"]))
    return found
