"""Gpu: what one card offers, from gpus.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clusterlm.errors import UsageError, did_you_mean, nearest

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One card, as a program sees it: memory, speeds, links, each with its source."""

    key: str
    name: str
    memory_bytes: int
    """What a program can see of the card, which is less than the number on the box."""
    compute_capability: tuple[int, int]
    vendor: str
    bfloat16: bool
    source: str
    half_tflops: float
    """Dense matrix products of 16-bit numbers, accumulated in float32: the data sheet's peak, as all of these."""
    float32_tflops: float
    memory_gb_per_second: float
    host_link_gb_per_second: float
    """Pinned host memory to the GPU, one direction, as copies reach it."""
    gpu_link_gb_per_second: float
    """One GPU to the others of its node, one direction, as usual nodes are built."""
    speed_source: str
    tf32_tflops: float | None = None
    eight_bit_tflops: float | None = None


@cache
def gpus() -> dict[str, Gpu]:
    table = tomllib.loads((Path(__file__).parents[1] / "gpus.toml").read_text("utf-8"))
    return {
        key: Gpu(
            key=key,
            name=row["name"],
            memory_bytes=round(row["memory_gib"] * GIB),
            compute_capability=(row["compute_capability"][0], row["compute_capability"][1]),
            vendor=row.get("vendor", "nvidia"),
            bfloat16=row.get("bfloat16", True),
            source=row["source"],
            half_tflops=row["half_tflops"],
            float32_tflops=row["float32_tflops"],
            memory_gb_per_second=row["memory_gb_per_second"],
            host_link_gb_per_second=row["host_link_gb_per_second"],
            gpu_link_gb_per_second=row["gpu_link_gb_per_second"],
            speed_source=row["speed_source"],
            tf32_tflops=row.get("tf32_tflops"),
            eight_bit_tflops=row.get("eight_bit_tflops"),
        )
        for key, row in table.items()
    }


def find_gpu(key: str) -> Gpu:
    """UsageError with the sizes of that kind, or the nearest names, where there is none of that name."""
    wanted = key.lower().replace("_", "-").removeprefix("nvidia-").removeprefix("amd-")
    if wanted in gpus():
        return gpus()[wanted]
    if wanted in ("", "any"):
        problem = "'any' stands for the kind that you name" if wanted else "the name is empty"
        raise UsageError(problem, where="--gpu", hint=f"say which: {', '.join(gpus())}")
    sizes = [known for known in gpus() if known.startswith(f"{wanted}-")]
    if len(sizes) == 1:
        return gpus()[sizes[0]]
    if sizes:
        raise UsageError(f"{key!r} comes in several sizes", where="--gpu", hint=f"say which: {', '.join(sizes)}")
    close = f"{did_you_mean(wanted, gpus())} " if nearest(wanted, gpus()) else ""
    raise UsageError(f"no GPU is called {key!r}", where="--gpu", hint=f"{close}there is: {', '.join(gpus())}")
