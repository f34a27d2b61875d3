"""Which GPU is meant by Slurm's name for it: a100, A100-SXM4-80GB, nvidia_gh200_120gb; a key of gpus.toml."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from clusterlm.cluster import find_gpu
from clusterlm.cluster.cards import sizes_of
from clusterlm.errors import UsageError

UNTYPED = "gpu"
"""How --gpu-kind names the GPUs of a site whose Slurm gives them no type."""
SLICE = re.compile(r"\dg\.\d+gb")
"""a100_1g.5gb, 1g.12gb: a part of a GPU (MIG)."""
SIZE = re.compile(r"(?<!\d)(\d{2,3})g(i?b)?(?![a-z])")
"""80gb, hbm80g."""


@dataclass(frozen=True)
class Kind:
    """The card that a type of Slurm means, or those that it may mean."""

    key: str
    """Of gpus.toml; "any" where the name is not known. Where several sizes are possible, the smallest."""
    possible: tuple[str, ...]
    """All that it may be: one where it is certain, none where the name is not known."""

    @property
    def certain(self) -> bool:
        return len(self.possible) == 1


def is_slice(gres_type: str | None) -> bool:
    return bool(gres_type and SLICE.search(gres_type.lower()))


def kind_of(gres_type: str | None, features: Collection[str], told: Mapping[str, str]) -> Kind:
    """By what the user told, else by Slurm's type with its size, else with the size that the node's features say."""
    for name, key in told.items():
        if name.lower() == (gres_type or UNTYPED).lower():
            return Kind(key, (key,))
    names = [gres_type] if gres_type else sorted(features)
    for name in names:
        if sizes := sizes_of(name):
            return _of_size(sizes, name, features)
    return Kind("any", ())


def checked_kinds(told: Mapping[str, str]) -> dict[str, str]:
    """What --gpu-kind says, with the keys spelled as gpus.toml does. UsageError where a key is none."""
    keys = {}
    for name, key in told.items():
        try:
            keys[name] = find_gpu(key).key
        except UsageError as problem:
            raise UsageError(problem.problem, where=f"--gpu-kind {name}={key}", hint=problem.hint) from None
    return keys


def _of_size(sizes: Mapping[int, str], name: str, features: Collection[str]) -> Kind:
    if len(sizes) > 1:
        base = next(iter(sizes.values())).rsplit("-", 1)[0]
        for text in (name, *sorted(features)):
            said = [size for size in _numbers(text.lower(), base) if size in sizes]
            if len(said) == 1:
                return Kind(sizes[said[0]], (sizes[said[0]],))
    smallest = min(sizes)
    return Kind(sizes[smallest], tuple(sizes[size] for size in sorted(sizes)))


def _numbers(text: str, base: str) -> list[int]:
    """Sizes that a text says: 80gb, hbm80g, and right after the card's own name a100_80, a100-sxm-80."""
    with_unit = [int(number) for number, _ in SIZE.findall(text)]
    _, found, behind = text.partition(base)
    bare = [int(number) for number in re.findall(r"(?<![a-z0-9])\d{2,3}(?![a-z0-9])", behind)] if found else []
    return list(dict.fromkeys(with_unit + bare))
