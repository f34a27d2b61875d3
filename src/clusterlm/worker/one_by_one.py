"""OneByOne: transformers' own loop, for architectures whose rows cannot share a cache (recurrent ones)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from clusterlm.worker.loading import LoadedModel
from clusterlm.worker.sampling import choose_tokens
from clusterlm.worker.scheduler import Waiting
from clusterlm.worker.sequence import Sequence


class OneByOne:
    """The same results as the Scheduler's, a sequence at a time."""

    def __init__(
        self,
        model: LoadedModel,
        waiting: Waiting,
        accept: Callable[[Sequence, int], None],
        max_batch_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.waiting = waiting
        self.accept = accept

    def run(self) -> Iterator[list[Sequence]]:
        while sequences := self.waiting.take(1, 0):
            self._generate(sequences[0])
            if sequences[0].finish_reason is None:
                return  # it was asked to stop
            yield sequences

    @torch.inference_mode()
    def _generate(self, sequence: Sequence) -> None:
        ids = torch.tensor([sequence.tokens], device=self.model.device)
        self.model.module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(max_new_tokens=sequence.max_new_tokens, do_sample=False, pad_token_id=0),
            logits_processor=LogitsProcessorList([_OurChoice(sequence, self.accept)]),
            stopping_criteria=StoppingCriteriaList([_OurEnd(sequence, self.waiting)]),
        )


class _OurChoice(LogitsProcessor):
    """Chooses the token by the sequence's own settings, and leaves `generate()` no other."""

    def __init__(self, sequence: Sequence, accept: Callable[[Sequence, int], None]) -> None:
        self.sequence = sequence
        self.accept = accept

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        [token] = choose_tokens(scores, [self.sequence])
        self.accept(self.sequence, token)
        only = torch.full_like(scores, -torch.inf)
        only[0, token] = 0
        return only


class _OurEnd(StoppingCriteria):
    def __init__(self, sequence: Sequence, waiting: Waiting) -> None:
        self.sequence = sequence
        self.waiting = waiting

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        done = self.sequence.finish_reason is not None or self.waiting.must_stop()
        return torch.full((input_ids.shape[0],), done, device=input_ids.device)
