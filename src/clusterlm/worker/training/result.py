"""The trained model as an ordinary Hugging Face folder, with a card that says how it came about."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_folder
from clusterlm.runs.asked import Asked
from clusterlm.spec import TrainSpec
from clusterlm.version import __version__
from clusterlm.worker.training.lines import read_lines
from clusterlm.worker.training.tokens import TokenTable

CARD = """\
---
base_model: {base}
library_name: {library}
tags: [clusterlm, trl, sft]
---

# {name}

{method} of `{base}` on `{data}` by clusterlm {version}.

{table}
## Data

{lengths}

## Loss

{curve}

## Settings

```toml
{settings}```
"""
POINTS_OF_CURVE = 12


@dataclass(frozen=True)
class Learned:
    """What is told of a training. Losses in nats per token."""

    steps: int
    held_out_before: float | None
    held_out_after: float | None
    trained_parameters: int
    parameters: int


def write_result(unfinished: Path, output: Path) -> None:
    """Give the folder its name; an older result of the same run gives way."""
    try:
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
        sync_folder(output.parent)
    except OSError as problem:
        raise RunError(disk_problem(problem), where=str(output)) from None


def card(asked: Asked[TrainSpec], table: TokenTable, learned: Learned, curve: list[dict[str, Any]]) -> str:
    spec = asked.spec
    methods = {"full": "All weights", "lora": "A LoRA adapter", "qlora": "A LoRA adapter (base in 4 bits)"}
    is_adapter = spec.method != "full" and not spec.merge
    return CARD.format(
        base=asked.model_name,
        library="peft" if is_adapter else "transformers",
        name=asked.output_path.name,
        method=methods[spec.method],
        data=asked.input_path.name,
        version=__version__,
        table=_table(learned),
        lengths="\n".join(f"- {line}" for line in table.lines()),
        curve=_curve(curve),
        settings=spec.to_toml(),
    )


def _table(learned: Learned) -> str:
    share = learned.trained_parameters / learned.parameters
    rows = [
        ("steps", f"{learned.steps:,}"),
        ("parameters that were trained", f"{learned.trained_parameters:,} of {learned.parameters:,} ({share:.2%})"),
    ]
    for name, loss in (("before", learned.held_out_before), ("after", learned.held_out_after)):
        if loss is not None:
            rows.append((f"held-out loss {name}, nats per token", f"{loss:.4f}"))
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _curve(steps: list[dict[str, Any]]) -> str:
    if not steps:
        return "No step was made."
    apart = max(1, len(steps) // POINTS_OF_CURVE)
    shown = [*steps[::apart], *([] if (len(steps) - 1) % apart == 0 else [steps[-1]])]
    lines = [f"| {one['step']} | {one['epoch']:.2f} | {one['loss']:.4f} |" for one in shown]
    return "\n".join(["| step | epoch | loss |", "|---|---|---|", *lines])


def curve_of(files: list[Path]) -> list[dict[str, Any]]:
    """The steps as they count in the end: what one attempt did beyond its last checkpoint, the next did again.

    `files`: of the attempts, the earliest first.
    """
    found: dict[int, dict[str, Any]] = {}
    for file in files:
        found |= {one["step"]: one for one in read_lines(file)}
    return [found[step] for step in sorted(found)]
