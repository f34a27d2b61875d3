"""A conversation with a model: each answer as it grows, and all that was said before it."""

from __future__ import annotations

from collections.abc import Generator as Yielding

from clusterlm.errors import ModelError
from clusterlm.records.request import Message, Request
from clusterlm.spec import GenerateSpec
from clusterlm.store import ModelFolder
from clusterlm.worker.generator import Generator
from clusterlm.worker.prompting import Unanswerable

HALF_A_CHARACTER = "\ufffd"
"""What the bytes of a character decode to until the last of them is there."""


class Conversation:
    def __init__(self, model: ModelFolder, spec: GenerateSpec) -> None:
        """Loads the model; ModelError where it has no chat template, or cannot be loaded."""
        if not model.has_chat_template:
            hint = "take the model's instruction-tuned version"
            raise ModelError("has no chat template, so it cannot answer messages", where=model.name, hint=hint)
        self._name = model.name
        self._generator = Generator(model.path, spec)
        self._said: list[Message] = []

    def answer(self, text: str) -> Yielding[str]:
        """The pieces of the answer, as they come. What came until the iteration was left counts as said.

        ModelError where the conversation is longer than the model's context.
        """
        self._said.append({"role": "user", "content": text})
        request = Request(len(self._said), str(len(self._said)), messages=list(self._said))
        shown = ""
        try:
            for so_far in self._generator.answer(request):
                if so_far.startswith(shown) and not so_far.endswith(HALF_A_CHARACTER):
                    yield so_far[len(shown) :]
                    shown = so_far
        except Unanswerable as problem:
            raise ModelError(str(problem), where=self._name, hint="begin a new conversation") from None
        finally:
            self._said.append({"role": "assistant", "content": shown})
