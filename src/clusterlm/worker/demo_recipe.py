"""How the built-in model is made: its sizes, its text and the account of its training."""

from __future__ import annotations

import hashlib
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
