"""The catalogue: every model that people measure can be planned from its name alone, with the published count."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterlm.errors import ClusterlmError, InputError, ModelError
from clusterlm.model.catalogue import catalogue_id, catalogue_names, entries, merged, published_parameters
from clusterlm.model.find import find_model

TO_PLAN = [
    line
    for line in (Path(__file__).parent / "models_to_plan.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
SIZES_NOT_PUBLIC = {"ibm-research/moe-7b-1b-active-shared-experts"}


@pytest.mark.parametrize("name", [name for name in TO_PLAN if name not in SIZES_NOT_PUBLIC])
def test_a_model_that_people_measure_is_known_by_its_name(name: str) -> None:
    assert find_model(name).parameters > 0


@pytest.mark.parametrize("name", sorted(SIZES_NOT_PUBLIC))
def test_a_model_whose_sizes_are_not_public_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelError, match=r"has not seen\nhint: give a folder"):
        find_model(name)


def unexplained(name: str) -> bool:
    known = catalogue_id(name)
    assert known
    return "parameters_note" not in merged(known)


@pytest.mark.parametrize("name", [name for name in catalogue_names() if published_parameters(name)])
def test_the_count_is_the_published_one_or_the_difference_is_explained(name: str) -> None:
    published = published_parameters(name)
    count = find_model(name).parameters
    assert count == published or not unexplained(name), f"{count:,}, published {published:,}"
    assert abs(count - (published or 0)) < 0.01 * count


def test_every_entry_has_a_shape_or_a_reason_why_not() -> None:
    for name in catalogue_names():
        try:
            assert find_model(name).layers
        except ClusterlmError:
            assert "refused" in entries()[name]


def test_a_copy_or_a_quantisation_of_a_known_model_is_planned_and_says_so() -> None:
    shape = find_model("TheBloke/Llama-2-13B-chat-AWQ")
    assert shape.parameters == 13_015_864_320  # Llama-2-13B, as Meta counts it
    assert shape.quantisation
    assert (shape.quantisation.method, shape.quantisation.bits, shape.quantisation.group_size) == ("awq", 4, 128)
    assert "by its name alone" in shape.source
    assert "Llama-2-13b-chat-hf" in shape.source


@pytest.mark.parametrize(
    ("name", "method", "bits"),
    [
        ("Qwen/Qwen2.5-Coder-7B-Instruct-GPTQ-Int8", "gptq", 8),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "awq", 4),
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", "nf4-dq", 4),
        ("RedHatAI/gemma-2-9b-it-quantized.w8a8", "compressed-int", 8),
        ("RedHatAI/gemma-2-9b-it-quantized.w4a16", "compressed-int", 4),
        ("neuralmagic/Mistral-7B-Instruct-v0.3-FP8", "fp8", 8),
    ],
)
def test_an_ending_means_what_its_usual_makers_mean(name: str, method: str, bits: int) -> None:
    quantisation = find_model(name).quantisation
    assert quantisation
    assert (quantisation.method, quantisation.bits) == (method, bits)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-9B-Instruct", "meta-llama/Llama-3.1-7B", "TheBloke/Llama-2-8B-AWQ"])
def test_a_size_that_does_not_exist_is_never_taken_for_another(name: str) -> None:
    with pytest.raises(ModelError, match="did you mean"):
        find_model(name)


def test_a_format_of_other_engines_is_refused() -> None:
    with pytest.raises(ModelError, match="made from"):
        find_model("TheBloke/Llama-2-7B-GGUF")


def test_a_short_name_of_copies_is_that_model() -> None:
    assert find_model("llama-2-7b-hf").parameters == 6_738_415_616


def test_a_short_name_of_different_models_asks_which() -> None:
    short_names: dict[str, set[str]] = {}
    for name in catalogue_names():
        entry = merged(name)
        short_names.setdefault(name.rsplit("/", 1)[-1].lower(), set()).add(str(entry.get("config")))
    for short, configs in short_names.items():
        if len(configs) > 1:
            with pytest.raises(InputError, match="say which"):
                find_model(short)
