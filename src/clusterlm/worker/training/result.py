"""The trained model as an ordinary Hugging Face folder, with a card that says how it came about."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_file, sync_folder
from clusterlm.runs.asked import Asked
from clusterlm.spec import TrainSpec
from clusterlm.units import show_seconds
from clusterlm.version import __version__
from clusterlm.worker.training.data.tokens import TokenTable
from clusterlm.worker.training.lines import read_lines

CARD = """\
---
{base_line}library_name: {library}
pipeline_tag: text-generation
tags: [clusterlm, trl, sft]
---

# {name}

{method} of {base}, trained on {data} by clusterlm {version}.

{table}
## Use

```bash
clusterlm generate {name} prompts.txt -o answers.jsonl
{serve}
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}"){remark}
tokenizer = AutoTokenizer.from_pretrained("{name}")
```
{chat}
## Data

{lengths}

## Loss

{curve}

## Settings

```toml
{settings}```

As a run file, `clusterlm train run.toml` does the same again. Made with {packages}.
"""
METHODS = {"full": "All weights", "lora": "A LoRA adapter", "qlora": "A LoRA adapter (beside 4-bit weights)"}
POINTS_OF_CURVE = 12
LORA_RANK_OF_VLLM = 16
"""Its default of --max-lora-rank."""
DEMO = "demo"
"""The built-in model."""
PLACES = ("model", "input", "output", "eval")


@dataclass(frozen=True)
class Learned:
    """What is told of a training."""

    steps: int
    held_out: Mapping[int, float]
    """By step: nats per token."""
    trained_parameters: int
    parameters: int
    environment: Mapping[str, Any]
    """Of the last attempt."""
    first_steps: str | None = None
    """What one of them took, beside what was planned."""


def unfinished_of(output: Path) -> Path:
    """Where it stands before it is whole."""
    return output.with_name(f".{output.name}.unfinished")


def write_result(unfinished: Path, output: Path) -> None:
    """Give the folder its name; an older result of the same run gives way."""
    try:
        usual = (unfinished / "README.md").stat().st_mode
        for file in unfinished.rglob("*"):
            if file.is_file():
                file.chmod(usual)  # safetensors lets nobody but the owner read
                sync_file(file)
        shutil.rmtree(output, ignore_errors=True)
        unfinished.rename(output)
        sync_folder(output.parent)
    except OSError as problem:
        raise RunError(disk_problem(problem), where=str(output)) from None


def card(asked: Asked[TrainSpec], table: TokenTable, learned: Learned, curve: list[dict[str, Any]]) -> str:
    spec = asked.spec
    is_adapter = spec.method != "full" and not spec.merge
    folder = Path(asked.model_name).expanduser()
    base = folder.name if folder.is_dir() else asked.model_name
    is_of_hub = not folder.is_dir() and base != DEMO
    name = asked.output_path.name
    chat = '\nPrompts are conversations: `{"messages": [{"role": "user", "content": "..."}]}`, in a .jsonl file.\n'
    packages: Mapping[str, str] = learned.environment.get("packages", {})
    return CARD.format(
        # A folder of the machine that trained it is no model of the hub, which reads this line.
        base_line=f"base_model: {base}\n" if is_of_hub else "",
        base=f"`{base}` ({asked.model_fingerprint})",
        library="peft" if is_adapter else "transformers",
        name=name,
        method=METHODS[spec.method] + (", merged into the weights" if spec.merge else ""),
        data=f"`{asked.input_path.name}`",
        version=__version__,
        table=_table(learned, curve),
        serve=_serve(name, base if is_of_hub else f"path/to/{base}", spec) if is_adapter else f"vllm serve {name}",
        remark="  # with peft installed; its base is loaded first" if is_adapter else "",
        chat=chat if asked.examples().form == "messages" else "",
        lengths="\n".join(f"- {line}" for line in table.lines()),
        curve=_curve(curve, learned.held_out),
        settings=_settings(spec),
        packages=", ".join(f"{package} {version}" for package, version in packages.items()),
    )


def _serve(name: str, base: str, spec: TrainSpec) -> str:
    rank = f" --max-lora-rank {spec.lora_rank}" if spec.lora_rank > LORA_RANK_OF_VLLM else ""
    return f"vllm serve {base} --enable-lora{rank} --lora-modules {name}={name}"


def _settings(spec: TrainSpec) -> str:
    """As the run file has them; of files and folders their names alone."""
    names = {name: Path(given).name for name in PLACES if (given := getattr(spec, name)) and given.startswith("/")}
    return spec.model_copy(update=names).to_toml()


def _table(learned: Learned, curve: list[dict[str, Any]]) -> str:
    share = learned.trained_parameters / learned.parameters
    environment = learned.environment
    rows = [
        ("steps", f"{learned.steps:,}"),
        ("tokens", f"{sum(one['tokens'] for one in curve):,}"),
        ("parameters that were trained", f"{learned.trained_parameters:,} of {learned.parameters:,} ({share:.2%})"),
    ]
    if learned.held_out:
        rows += [(f"held-out loss {when}", _loss(loss)) for when, loss in _before_and_after(learned.held_out)]
    if "device" in environment:
        processes = environment.get("training", {}).get("processes", 1)
        hours = show_seconds(sum(one["seconds"] for one in curve))
        rows.append(("trained on", f"{processes} x {environment['device']}, in {hours}"))
    if learned.first_steps:
        rows.append(("first steps", learned.first_steps))
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def _before_and_after(held_out: Mapping[int, float]) -> list[tuple[str, float]]:
    steps = sorted(held_out)
    return [("before" if step == 0 else "after", held_out[step]) for step in dict.fromkeys((steps[0], steps[-1]))]


def _loss(loss: float) -> str:
    return f"{loss:.4f} nats per token (perplexity {perplexity(loss):,.2f})"


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # float64 ends there


def _curve(steps: list[dict[str, Any]], held_out: Mapping[int, float]) -> str:
    if not steps:
        return "No step was made."
    apart = max(1, len(steps) // POINTS_OF_CURVE)
    shown = [*steps[::apart], *([] if (len(steps) - 1) % apart == 0 else [steps[-1]])]
    lines = ["| step | epoch | loss |", "|---|---|---|"]
    lines += [f"| {one['step']:,} | {one['epoch']:.2f} | {one['loss']:.4f} |" for one in shown]
    if held_out:
        lines += ["", "| step | held-out loss | perplexity |", "|---|---|---|"]
        lines += [
            f"| {step:,} | {held_out[step]:.4f} | {perplexity(held_out[step]):,.2f} |" for step in sorted(held_out)
        ]
    return "\n".join(lines)


def curve_of(files: list[Path]) -> list[dict[str, Any]]:
    """The steps as they count in the end: what one attempt did beyond its last checkpoint, the next did again.

    `files`: of the attempts, the earliest first.
    """
    found: dict[int, dict[str, Any]] = {}
    for file in files:
        found |= {one["step"]: one for one in read_lines(file)}
    return [found[step] for step in sorted(found)]
