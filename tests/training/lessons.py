"""What the tests teach, and what they read of it."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

WORDS = re.findall(r"[a-z]+", " ".join(list(pydoc_data.topics.topics.values())[:40]).lower())
TEXTS = [" ".join(WORDS[place * 7 : place * 7 + 5 + place * 13 % 70]) for place in range(96)]
"""Of 5 to 74 words, in no order of length."""


def losses(output: Path) -> dict[int, float]:
    """By step, as the run's last attempt at each wrote it."""
    found: dict[int, float] = {}
    for file in sorted(Path(f"{output}.run").glob("attempts/*/steps.jsonl"), key=lambda path: int(path.parent.name)):
        found |= {one["step"]: one["loss"] for one in map(json.loads, file.read_text().splitlines())}
    return found


def weights(folder: Path) -> dict[str, Any]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return dict(load_file(folder / name))


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """To the bit."""
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def texts_file(path: Path, *, texts: int, words: int) -> Path:
    """So many texts of so many words."""
    rows = (" ".join(WORDS[(place * 17) % 4000 :][:words]) for place in range(texts))
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path
