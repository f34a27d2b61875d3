"""Gpu: what one card offers, from gpus.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from clusterlm.errors import UsageError, did_you_mean, nearest

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    key: str
    name: str
    memory_bytes: int
    """What a program can see of the card, which is less than the number on the box."""
    compute_capability: tuple[int, int]
    vendor: str
    bfloat16: bool
    source: str


@cache
def gpus() -> dict[str, Gpu]:
    table = tomllib.loads(resources.files("clusterlm").joinpath("gpus.toml").read_text("utf-8"))
    return {
        key: Gpu(
            key=key,
            name=row["name"],
            memory_bytes=round(row["memory_gib"] * GIB),
            compute_capability=(row["compute_capability"][0], row["compute_capability"][1]),
            vendor=row.get("vendor", "nvidia"),
            bfloat16=row.get("bfloat16", True),
            source=row["source"],
        )
        for key, row in table.items()
    }


def find_gpu(key: str) -> Gpu:
    """UsageError with the sizes of that kind, or the nearest names, where there is none of that name."""
    wanted = key.lower().replace("_", "-").removeprefix("nvidia-").removeprefix("amd-")
    if wanted in gpus():
        return gpus()[wanted]
    sizes = [known for known in gpus() if known.startswith(f"{wanted}-")]
    if len(sizes) == 1:
        return gpus()[sizes[0]]
    if sizes:
        raise UsageError(f"{key!r} comes in several sizes", where="--gpu", hint=f"say which: {', '.join(sizes)}")
    close = f"{did_you_mean(wanted, gpus())} " if nearest(wanted, gpus()) else ""
    raise UsageError(f"no GPU is called {key!r}", where="--gpu", hint=f"{close}there is: {', '.join(gpus())}")
