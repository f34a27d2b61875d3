"""Which card a name means: A100-SXM4-80GB of Slurm, NVIDIA H100 80GB HBM3 of a driver."""

from __future__ import annotations

import re
from itertools import pairwise

from clusterlm.cluster.gpu import Gpu, gpus

OTHER_GENERATION = {"ada", "blackwell", "laptop"}
"""Words that make another card of the same number: RTX 6000 Ada."""
ALIASES = {"mi250": "mi250x", "quadro6000": "rtx6000", "titanrtx": "titan-rtx"}
OF_MAKERS = {"nvidia", "amd", "geforce", "tesla", "instinct", "gpu"}
"""Words of a driver that make no other card."""
OF_OTHER_SPEED = (
    ("v100", "pcie"),
    ("h100", "pcie"),
    ("h100", "nvl"),
    ("h200", "nvl"),
    ("rtx3090", "ti"),
    ("rtx4090", "d"),
)
"""Words that make another card than the one in gpus.toml, of the same memory. Source: NVIDIA's data sheets."""
NEARLY = 0.08
"""Of a card's memory, that drivers and settings of the same card differ by."""


def sizes_of(name: str) -> dict[int, str]:
    """The keys of that card by their GB: a100 -> {40: 'a100-40', 64: ..., 80: ...}; 0 where there is one size alone."""
    words = words_of(name)
    whole = [first + second for first, second in pairwise(words)]
    names = {ALIASES.get(word, word).replace("-", "") for word in [*words, *whole]}
    if OTHER_GENERATION & set(words):
        names = {"".join(words)}
    families = _families()
    return next((families[base] for base in sorted(families, key=len, reverse=True) if base in names), {})


def words_of(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _families() -> dict[str, dict[int, str]]:
    """{'a100': {40: 'a100-40', ...}, 't4': {0: 't4'}}."""
    families: dict[str, dict[int, str]] = {}
    for key in gpus():
        sized = re.fullmatch(r"(.+)-(\d+)", key)
        base, size = (sized[1], int(sized[2])) if sized else (key, 0)
        families.setdefault(base.replace("-", ""), {})[size] = key
    return families


def card_of(name: str, memory_bytes: int) -> Gpu | None:
    """The card whose driver gives it that name and memory; None for a part of one, and for one that is not known."""
    words = [word for word in words_of(name) if word not in OF_MAKERS]
    cards = [gpus()[key] for key in sizes_of(" ".join(words)).values()]
    if not cards or any(cards[0].key.startswith(base) and word in words for base, word in OF_OTHER_SPEED):
        return None
    nearest = min(cards, key=lambda card: abs(card.memory_bytes - memory_bytes))
    return nearest if abs(nearest.memory_bytes - memory_bytes) <= NEARLY * nearest.memory_bytes else None
