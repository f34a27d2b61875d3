"""The built-in model: a tokenizer and a small Llama, trained in about a minute on English that every CPython installs.

It is real (any tool that reads Hugging Face folders loads it) and knows nothing: for trying things out where no hub can
be reached, and for tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import pydoc_data.topics
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPE: dict[str, Any] = {
    "vocabulary": 2048,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "steps": 700,
    "sequences_per_step": 4,
    "tokens_per_sequence": 96,
    "learning_rate": 2e-3,
    "warm_up_steps": 30,
    "held_out_share": 0.05,
}
"""Chosen by trial on 2 CPU cores: larger models, larger batches and longer sequences learnt less in the same minute."""

CONTINUATION_PROMPTS = (
    "The value of the expression",
    "A class definition is",
    "If the object does not have",
)

END, USER, ASSISTANT, SYSTEM = "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

OnProgress = Callable[[int, int, float, float], None]
"""Called with the step, the number of steps, the loss and the seconds so far."""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """Losses are on held-out text, nats per token."""

    folder: Path
    parameters: int
    loss_before: float
    loss_after: float
    seconds: float


def ensure_demo_model(on_progress: OnProgress | None = None) -> DemoModel:
    """The cached one, or a new one where this machine has none yet."""
    folder = demo_model_folder()
    if not (folder / "demo.json").exists():
        from clusterlm.worker.demo_training import make_demo_model  # torch: seconds, and only the first time

        make_demo_model(folder, on_progress=on_progress)
    return DemoModel(folder=folder, **json.loads((folder / "demo.json").read_text()))


def demo_model_folder() -> Path:
    """In the user's cache; another recipe or another text is another folder."""
    cache = os.environ.get("CLUSTERLM_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    recipe = json.dumps(RECIPE, sort_keys=True) + CHAT_TEMPLATE + "".join(documents())
    return Path(cache).expanduser() / "clusterlm" / f"demo-model-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def documents() -> list[str]:
    """Paragraphs of prose: code, tables and markup would teach a small model little but noise."""
    paragraphs = []
    for text in pydoc_data.topics.topics.values():
        for block in re.split(r"\n\s*\n", text):
            paragraph = re.sub(r"[*`|]", "", " ".join(block.split()))
            if len(paragraph) > 60 and paragraph[0].isupper() and "::=" not in paragraph and ">>>" not in paragraph:
                paragraphs.append(paragraph)
    unique = list(dict.fromkeys(paragraphs))
    # An order that is always the same and mixes the topics, so that what is held out is like the rest.
    return sorted(unique, key=lambda paragraph: hashlib.sha256(paragraph.encode()).digest())
