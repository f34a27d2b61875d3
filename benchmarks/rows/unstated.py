"""Rows of training whose own words do not say what decides their memory: each with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.rows.conditions import NotCovered, Question

Asked = Mapping[str, str]


def is_axolotl_example(asked: Asked) -> bool:
    return asked["software"].startswith("axolotl 2025")


def is_torchtune(asked: Asked) -> bool:
    return asked["software"].startswith("torchtune") and asked["task"] in ("full", "lora", "qlora")


def refusing(reason: str) -> Callable[[Asked], Question]:
    def read(asked: Asked) -> Question:
        raise NotCovered(reason)

    return read


READERS = (
    (is_axolotl_example, refusing("axolotl's examples: which fused kernels and plugins ran is not stated")),
    (is_torchtune, refusing("torchtune: compile, offload and optimizer of the README's runs are not stated")),
)
