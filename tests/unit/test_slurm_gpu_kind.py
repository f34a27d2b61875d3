"""Slurm's names for GPUs, as sites and NVML spell them, mean the right cards."""

from __future__ import annotations

import pytest

from clusterlm.errors import UsageError
from clusterlm.slurm.gpu_kind import checked_kinds, is_slice, kind_of


@pytest.mark.parametrize(
    ("name", "features", "key"),
    [
        ("V100-SXM2-32GB", (), "v100-32"),
        ("tesla_v100-pcie-32gb", (), "v100-32"),
        ("A100-SXM4-80GB", (), "a100-80"),
        ("nvidia_a100-pcie-40gb", (), "a100-40"),
        ("nvidia_a100_80gb_pcie", (), "a100-80"),
        ("a100_80", (), "a100-80"),
        ("a100", ("gpu", "hbm80g"), "a100-80"),  # Perlmutter's feature
        ("a100", ("c48", "m1000", "a100-64"), "a100-64"),
        ("nvidia_h100_80gb_hbm3", (), "h100-80"),
        ("nvidia_h100_nvl", ("VramPerGpu:no_consume:94G",), "h100-94"),  # Geneva's Gres
        ("gh200", (), "gh200-96"),
        ("nvidia_gh200_480gb", (), "gh200-96"),  # NVML's name counts the host's memory
        ("mi250", (), "mi250x"),
        ("quadro_rtx_6000", (), "rtx6000"),
        ("rtx_a6000", (), "a6000"),
        ("nvidia_geforce_rtx_3090", (), "rtx3090"),
        ("titan_rtx", (), "titan-rtx"),
        (None, ("a100_40",), "a100-40"),
    ],
)
def test_a_name_that_says_all_is_certain(name: str | None, features: tuple[str, ...], key: str) -> None:
    kind = kind_of(name, features, {})
    assert (kind.key, kind.certain) == (key, True)


@pytest.mark.parametrize(
    ("name", "possible"),
    [("v100", ("v100-16", "v100-32")), ("A100", ("a100-40", "a100-64", "a100-80"))],
)
def test_of_several_sizes_the_smallest_is_taken_and_all_are_told(name: str, possible: tuple[str, ...]) -> None:
    kind = kind_of(name, ("gpu", "40cores"), {})
    assert (kind.key, kind.possible) == (possible[0], possible)


@pytest.mark.parametrize("name", ["k80", "rtx_6000_ada", "nvidia_rtx_pro_6000_blackwell", "gtx_1080", None])
def test_an_unknown_card_is_any_until_it_is_told(name: str | None) -> None:
    assert kind_of(name, (), {}).key == "any"
    assert kind_of(name, (), {name or "gpu": "l40s"}).key == "l40s"


def test_what_is_told_goes_before_what_the_name_says() -> None:
    assert kind_of("a100", (), {"A100": "a100-80"}).key == "a100-80"


def test_slices_of_a_gpu_are_known_as_such() -> None:
    assert is_slice("a100_1g.5gb")
    assert is_slice("1g.12gb")
    assert not is_slice("A100-SXM4-80GB")


def test_a_key_that_is_none_is_refused_with_the_flag_that_said_it() -> None:
    with pytest.raises(UsageError) as refusal:
        checked_kinds({"a100": "a100-8"})
    assert refusal.value.where == "--gpu-kind a100=a100-8"
