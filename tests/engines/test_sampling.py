"""The next token: transformers' own processors say which may be chosen, counting says how often."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from clusterlm.worker.sampling import choose_tokens
from clusterlm.worker.sequence import Sampling, Sequence

VOCABULARY = 3000  # more than the candidates that are looked at first
DRAWS = 4000


def row(sampling: Sampling, seed: int, tokens: tuple[int, ...] = (5, 7, 7)) -> Sequence:
    return Sequence(0, 0, list(tokens), len(tokens), 10, sampling, seed)


def logits() -> torch.Tensor:
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3


SETTINGS = [
    Sampling(temperature=0.7),
    Sampling(temperature=1.3, top_k=5),
    Sampling(temperature=1.0, top_p=0.6),
    Sampling(temperature=2.0, top_p=0.999),
    Sampling(temperature=0.9, top_k=2000, top_p=0.8),
    Sampling(temperature=0.8, top_k=40, top_p=0.5, repetition_penalty=1.3),
]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_tokens_are_drawn_with_the_probabilities_of_generate(sampling: Sampling) -> None:
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.repetition_penalty != 1:
        processors.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    expected = processors(torch.tensor([[5, 7, 7]]), logits().clone()).softmax(-1)[0]

    rows = [row(sampling, seed) for seed in range(DRAWS)]
    drawn = torch.tensor(choose_tokens(logits().expand(DRAWS, -1), rows))
    assert (expected[drawn] > 0).all(), "a token was drawn that generate() never draws"
    frequency = torch.bincount(drawn, minlength=VOCABULARY) / DRAWS
    # Five standard deviations of a binomial share, for the tokens that matter.
    tolerance = 5 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-9
    likely = expected > 0.01
    assert likely.any()
    assert ((frequency - expected).abs() <= tolerance)[likely].all()


def test_temperature_0_takes_the_likeliest_after_the_repetition_penalty() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.9, -1.0]])
    assert choose_tokens(scores, [row(Sampling(), 0, (1,))]) == [1]
    assert choose_tokens(scores, [row(Sampling(repetition_penalty=1.5), 0, (1,))]) == [2]  # 3 / 1.5 = 2 < 2.9


def test_a_row_draws_the_same_whatever_stands_beside_it() -> None:
    alone = [choose_tokens(logits(), [row(sampling, 11)])[0] for sampling in SETTINGS]
    together = choose_tokens(logits().expand(len(SETTINGS), -1), [row(sampling, 11) for sampling in SETTINGS])
    assert together == alone
