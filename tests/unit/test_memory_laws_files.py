"""The shipped laws: read by setup, they are what the whole file says."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from clusterlm.planning.laws import find_law_of

FOLDER = resources.files("clusterlm") / "planning" / "laws"
ARCHITECTURES = sorted(file.name.removesuffix(".json") for file in FOLDER.iterdir() if file.name.endswith(".json"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_setup_read_alone_is_the_one_in_the_file(architecture: str) -> None:
    for entry in json.loads((FOLDER / f"{architecture}.json").read_text("utf-8")):
        for key, setup in entry["setups"].items():
            law = find_law_of(architecture, entry["structure"], key)
            assert law
            assert (law.exact, law.setup, law.versions) == (True, setup, entry["versions"])


def test_an_architecture_or_setup_that_was_not_learned_has_no_law() -> None:
    assert find_law_of("no such architecture", "", "generate bfloat16") is None
    assert find_law_of("llama", "", "no such setup") is None
