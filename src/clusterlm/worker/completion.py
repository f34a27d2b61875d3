"""When a completion ends, and its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterlm.worker.sequence import Sequence

CONTEXT_FOR_DECODING = 8
"""Prompt tokens decoded along: some tokenizers drop the blank before the first word of what they decode."""


@dataclass(frozen=True, slots=True)
class Completion:
    tokenizer: Any
    end_tokens: frozenset[int]

    def accept(self, sequence: Sequence, token: int) -> None:
        """Append the token; set finish_reason when it was the last."""
        sequence.tokens.append(token)
        if token in self.end_tokens or (sequence.stop and self._reached_stop(sequence)):
            sequence.finish_reason = "stop"
        elif sequence.completion_tokens >= sequence.max_new_tokens:
            sequence.finish_reason = "length"

    def text(self, sequence: Sequence) -> str:
        """The generated text, without its end token and without the stop string and what is behind it."""
        tokens = sequence.completion
        if tokens and tokens[-1] in self.end_tokens:
            tokens = tokens[:-1]
        before = sequence.tokens[: sequence.prompt_tokens][-CONTEXT_FOR_DECODING:]
        head, both = self._decode(before), self._decode(before + tokens)
        # A prompt that ends within a character decodes otherwise alone than with what follows.
        text = both.removeprefix(head) if both.startswith(head) else self._decode(tokens)
        ends = [place for stop in sequence.stop if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _reached_stop(self, sequence: Sequence) -> bool:
        longest = max(len(stop.encode()) for stop in sequence.stop)
        # A token is at least one byte of the text, special ones aside.
        tail = self._decode(sequence.completion[-longest - CONTEXT_FOR_DECODING :])
        return any(stop in tail for stop in sequence.stop)

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
