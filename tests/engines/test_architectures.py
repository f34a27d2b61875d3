"""Every architecture gives in a shared, ever-changing batch what transformers' own generate() gives one by one."""

from __future__ import annotations

import pydoc_data.topics
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clusterlm.records.request import Request, Result
from clusterlm.spec import GenerateSpec
from clusterlm.worker.generator import Generator
from tests.engines.zoo import ARCHITECTURES, RECURRENT

PROMPTS = 16


def mixed_requests() -> list[Request]:
    """Prompts of 1 to 40 words and answers of 5 to 60 tokens: rows join and leave at different steps."""
    lengths = random.Random(0)
    words = " ".join(pydoc_data.topics.topics["assert"].split()).split()
    return [
        Request(
            index,
            f"r{index}",
            prompt=" ".join(lengths.choices(words, k=lengths.choice([1, 3, 8, 20, 40]))),
            options={"max_new_tokens": lengths.randrange(5, 60)},
        )
        for index in range(PROMPTS)
    ]


def answers(generator: Generator, requests: list[Request]) -> dict[int, Result]:
    return {result.index: result for results in generator.results(requests) for result in results}


def by_transformers(generator: Generator, request: Request) -> tuple[str, int]:
    encoded = generator.tokenizer(request.prompt, return_tensors="pt")
    output = generator.model.module.generate(
        input_ids=encoded.input_ids,
        attention_mask=encoded.attention_mask,
        do_sample=False,
        max_new_tokens=request.options["max_new_tokens"],
        pad_token_id=0,
    )
    completion = output[0, encoded.input_ids.shape[1] :]
    return generator.tokenizer.decode(completion, skip_special_tokens=True), len(completion)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *RECURRENT])
def test_greedy_text_equals_generate_one_by_one(architecture: str, tiny: Callable[[str], Path]) -> None:
    folder = tiny(architecture)
    generator = Generator(folder, GenerateSpec(model=str(folder), input="-", output="-"))
    requests = mixed_requests()
    results = answers(generator, requests)
    for request in requests:
        choice = results[request.index].choices[0]
        assert (choice.text, choice.completion_tokens) == by_transformers(generator, request)
    assert len({result.choices[0].text for result in results.values()}) > PROMPTS // 2, "the model says always the same"


def test_25_attention_architectures_share_their_batches(tiny: Callable[[str], Path]) -> None:
    assert len(ARCHITECTURES) == 25
    for architecture in ("llama", "gemma2", "bloom"):
        folder = tiny(architecture)
        generator = Generator(folder, GenerateSpec(model=str(folder), input="-", output="-"))
        assert generator.model.cohort_layers is not None


def test_a_budget_of_few_tokens_changes_no_result(tiny: Callable[[str], Path]) -> None:
    folder = tiny("llama")
    requests = mixed_requests()
    whole = answers(Generator(folder, GenerateSpec(model=str(folder), input="-", output="-")), requests)
    spec = GenerateSpec(model=str(folder), input="-", output="-", max_batch_tokens=300)
    assert answers(Generator(folder, spec), requests) == whole


def test_running_out_of_memory_loses_nothing(tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's own exception, at every seventh forward of several rows."""
    folder = tiny("llama")
    requests = mixed_requests()
    spec = GenerateSpec(model=str(folder), input="-", output="-")
    generator = Generator(folder, spec)
    whole = answers(generator, requests)
    module = generator.model.module
    forward, calls = module.forward, 0

    def short_of_memory(*arguments: torch.Tensor, **named: torch.Tensor) -> object:
        nonlocal calls
        calls += 1
        if calls % 7 == 3 and named["input_ids"].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return forward(*arguments, **named)

    monkeypatch.setattr(module, "forward", short_of_memory)
    assert answers(generator, requests) == whole
    assert calls > 7
