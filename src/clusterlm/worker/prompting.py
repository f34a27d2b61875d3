"""From a Request to the Sequences that answer it: chat template, tokens, settings, seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from clusterlm.records.request import Message, Request
from clusterlm.spec import GenerateSpec
from clusterlm.worker.sequence import Sampling, Sequence

SEED_BITS = 32

NO_LIMIT = 1 << 62
"""Tokens of room where the model sets none."""


class Unanswerable(Exception):
    """One request cannot be answered; the text becomes its error, and the others go on."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """`own_sampling` is what the model's generation_config says; flags win over it, a request's options over both."""

    tokenizer: Any
    spec: GenerateSpec
    own_sampling: dict[str, float]
    context_tokens: int | None

    def sequences(self, request: Request) -> list[Sequence]:
        """One for each sample; Unanswerable where the request is a bad row or its prompt too long."""
        if request.error is not None:
            raise Unanswerable(request.error)
        tokens = self._tokens(request)
        room = self._room(tokens)
        options = request.options
        sampling = Sampling(**self._sampling(request))
        return [
            Sequence(
                request_index=request.index,
                sample=sample,
                tokens=list(tokens),
                prompt_tokens=len(tokens),
                max_new_tokens=min(room, int(options.get("max_new_tokens", self.spec.max_new_tokens))),
                sampling=sampling,
                seed=sample_seed(self.spec.seed, request, sample),
                stop=tuple(options.get("stop", self.spec.stop)),
            )
            for sample in range(int(options.get("n", self.spec.n)))
        ]

    def _sampling(self, request: Request) -> dict[str, Any]:
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        flags = {name: value for name in names if (value := getattr(self.spec, name)) is not None}
        own = {name: request.options[name] for name in names if name in request.options}
        return {**self.own_sampling, **flags, **own}

    def _tokens(self, request: Request) -> list[int]:
        messages = self._messages(request)
        if messages is None:
            tokens = self.tokenizer(request.prompt)["input_ids"]
        else:
            try:
                text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as problem:  # noqa: BLE001 a template is a program of the model's author: it raises what it likes
                raise Unanswerable(f"the chat template refuses it: {problem}") from None
            # The template has written the special tokens already.
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise Unanswerable("the prompt has no tokens")
        return list(tokens)

    def _messages(self, request: Request) -> list[Message] | None:
        """The conversation for the chat template; None where the prompt goes to the model as it is."""
        if self.spec.chat is False or (self.spec.chat is None and request.messages is None):
            if request.messages is not None:
                raise Unanswerable("--no-chat takes prompts, and this record is a list of messages")
            return None
        messages = list(request.messages or [{"role": "user", "content": request.prompt}])
        if self.spec.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.spec.system})
        return messages

    def _room(self, tokens: list[int]) -> int:
        if self.context_tokens is None:
            return NO_LIMIT
        if len(tokens) >= self.context_tokens:
            raise Unanswerable(
                f"the prompt has {len(tokens):,} tokens, and the model's context is {self.context_tokens:,} tokens:"
                " no room for an answer"
            )
        return self.context_tokens - len(tokens)


def sample_seed(run_seed: int, request: Request, sample: int) -> int:
    """The same for the same request wherever it stands, whatever runs beside it and however often the run restarts."""
    if "seed" in request.options:
        return int(request.options["seed"]) + sample
    text = f"{run_seed}/{sample}/{request.id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: SEED_BITS // 8])
