"""Generation in memory: for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterlm.records.request import Request, Result
from clusterlm.spec import GenerateSpec, make_spec
from clusterlm.store import ModelFolder, find_model
from clusterlm.worker.demo_model import ensure_demo_model
from clusterlm.worker.generator import Generator

DEMO = "demo"


def generate_in_memory(
    model: str, prompts: Iterable[str | list[Mapping[str, Any]]], options: Mapping[str, Any]
) -> Iterator[Result]:
    """Results in the order of the prompts; each is held until those before it are finished."""
    spec = make_spec(GenerateSpec, {"model": model, "input": "-", "output": "-", **options})
    folder: ModelFolder = find_model(str(ensure_demo_model().folder) if model == DEMO else model, spec.revision)
    generator = Generator(folder.path, spec)
    held: dict[int, Result] = {}
    due = 0
    for results in generator.results(_requests(prompts)):
        held |= {result.index: result for result in results}
        while due in held:
            yield held.pop(due)
            due += 1


def _requests(prompts: Iterable[str | list[Mapping[str, Any]]]) -> Iterator[Request]:
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            yield Request(index, str(index), prompt=prompt)
        else:
            yield Request(index, str(index), messages=prompt)
