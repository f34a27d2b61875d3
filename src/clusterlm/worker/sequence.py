"""Sequence: one text being generated, the working state between a Request and its Choice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 takes the likeliest; `top_k` 0 and `top_p` 1 keep all tokens."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(slots=True, eq=False)
class Sequence:
    """One row of a cohort. `tokens` holds the prompt and, behind it, what was generated so far."""

    request_index: int
    sample: int
    tokens: list[int]
    prompt_tokens: int
    max_new_tokens: int
    sampling: Sampling
    seed: int
    stop: tuple[str, ...] = ()
    finish_reason: str | None = None
    error: str | None = None
    text: str | None = None
    seen: torch.Tensor | None = field(default=None, repr=False)
    random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A generator of its own: the draws depend neither on the neighbours in the batch nor on a restart.
        self.random = random.Random(self.seed)

    @property
    def completion(self) -> list[int]:
        return self.tokens[self.prompt_tokens :]

    @property
    def completion_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens
