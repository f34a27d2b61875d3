"""How many steps a training has: by its texts once they are tokens, before that by their number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusterlm.runs.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of the texts that are learned."""

    sequences: int
    tokens: int


def encoded(run: RunFolder) -> Encoded | None:
    """None before a process of the run has made tokens of its texts."""
    try:
        table = json.loads((run.data / "learned.json").read_bytes())["table"]
        return Encoded(int(table["sequences"]), int(table["tokens"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def steps_of(run: RunFolder, spec: Mapping[str, Any], examples: int) -> int:
    """Of the whole training; about, where texts will be split or left out. `spec`: as run.json has it."""
    known = encoded(run)
    sequences = known.sequences if known else learned_examples(spec, examples)
    return int(spec["max_steps"] or spec["epochs"] * math.ceil(sequences / spec["global_batch_size"]))


def learned_examples(spec: Mapping[str, Any], examples: int) -> int:
    """Without those that are held out."""
    held_out = max(1, round(examples * spec["eval_fraction"])) if spec["eval_fraction"] else 0
    return max(1, examples - held_out)
