"""From an Example to tokens, and which of them are learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jinja2
import numpy
from trl.chat_template_utils import get_training_chat_template

from clusterlm.errors import ModelError
from clusterlm.records.examples import ASSISTANT, Example
from clusterlm.records.request import Message

AT_ONCE = 1000
"""Texts that the tokenizer encodes together, on all cores."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """`tokens` [length] int32; `learned` [length] bool: whether the model is to predict it."""

    index: int
    tokens: numpy.ndarray
    learned: numpy.ndarray


class Encoder:
    """A text ends with the end token, so that the model learns to end. A prompt and its completion are encoded apart:
    so the model sees a prompt's tokens as it will when it answers one.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        """`name`: of the model, for errors."""
        self._tokenizer = tokenizer
        self._name = name
        self._end = tokenizer.eos_token_id
        if self._end is None:
            raise ModelError("its tokenizer has no end token, so no text would ever end", where=name)
        self._begin = self._special_begin()
        self._template: str | None = None

    def encode(self, examples: Iterable[Example]) -> Iterator[Encoded]:
        """In their order."""
        rows = iter(examples)
        while some := list(islice(rows, AT_ONCE)):
            yield from self._encode_some(some)

    def _encode_some(self, examples: Sequence[Example]) -> Iterator[Encoded]:
        if examples[0].messages is not None:
            yield from (self._conversation(one.index, one.messages or ()) for one in examples)
            return
        bodies = self._ids([one.completion if one.prompt is not None else one.text for one in examples])
        prompts = self._ids([one.prompt or "" for one in examples])
        for one, prompt, body in zip(examples, prompts, bodies, strict=True):
            before = [*self._begin, *prompt]
            after = body if body[-1:] == [self._end] else [*body, self._end]
            learned = numpy.zeros(len(before) + len(after), dtype=bool)
            learned[len(before) if one.prompt is not None else 0 :] = True
            yield Encoded(one.index, numpy.array([*before, *after], dtype=numpy.int32), learned)

    def _ids(self, texts: Sequence[str | None]) -> list[list[int]]:
        encoded: list[list[int]] = self._tokenizer(
            [text or "" for text in texts], add_special_tokens=False, verbose=False
        )["input_ids"]
        return encoded

    def _special_begin(self) -> list[int]:
        """What the tokenizer puts before every text: the begin token, for some models."""
        tokens: list[int] = self._tokenizer("")["input_ids"]
        return [token for token in tokens if token != self._end or token == self._tokenizer.bos_token_id][:1]

    # ----------------------------------------------------------------------------------------------- conversations

    def _conversation(self, index: int, messages: Sequence[Message]) -> Encoded:
        text = self._render(messages)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        learned = numpy.zeros(len(encoded["input_ids"]), dtype=bool)
        starts = numpy.array([start for start, _ in encoded["offset_mapping"]])
        for first, behind in self._spans(messages, text):
            learned |= (starts >= first) & (starts < behind)
        tokens = encoded["input_ids"]
        if messages[-1]["role"] == ASSISTANT and text.endswith(messages[-1]["content"]):
            # The template has no mark of its own for the end of a turn: without one the model would never end.
            tokens, learned = [*tokens, self._end], numpy.append(learned, True)
        return Encoded(index, numpy.array(tokens, dtype=numpy.int32), learned)

    def _spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Where the assistant's turns stand in the rendered text, from their first character to the end mark."""
        found = []
        for place, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                before = self._render(messages[:place], ask=True)
                after = self._render(messages[: place + 1])
                if not (text.startswith(after) and after.startswith(before)):
                    raise self._not_prefix_preserving()
                found.append((len(before), len(after)))
        return found

    def _render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        if self._template is None:
            self._template = self._training_template()
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=ask
            )
        except (jinja2.TemplateError, ValueError, KeyError) as problem:
            first = next(iter(messages), {})
            problem_text = f"its chat template refuses a conversation that begins {dict(first)!r:.80}: {problem}"
            raise ModelError(problem_text, where=self._name) from None
        return rendered

    def _training_template(self) -> str:
        """TRL's version where it has one: templates of models that think leave earlier thoughts out."""
        own = self._tokenizer.chat_template
        if not own:
            hint = "take the model's instruction-tuned version, or learn prompts with completions"
            raise ModelError("has no chat template, so it cannot learn messages", where=self._name, hint=hint)
        try:
            return get_training_chat_template(self._tokenizer) or str(own)
        except ValueError:
            return str(own)

    def _not_prefix_preserving(self) -> ModelError:
        return ModelError(
            "its chat template changes earlier turns when later ones come, so what was answered cannot be told",
            where=self._name,
            hint="give each turn as a prompt with its completion",
        )
