"""Efficiency: the constants that published measurements taught, read from efficiency.json.

`python -m benchmarks.speed_fit` learns them; their fields say what they mean, the file what they rest on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from clusterlm.planning.workload import Workload


@dataclass(frozen=True)
class Stored:
    """What quantised matrices add to an engine's own constants."""

    matrix_microseconds: float = 10.0
    """Of the host for each matrix, more."""
    bytes_factor: float = 1.3
    """Time to read a byte of a weight, compared with the engine's 16-bit matrices."""
    compute_factor: float = 1.1
    """Time of a large product, compared with the engine's 16-bit matrices."""


@dataclass(frozen=True)
class Generating:
    """An engine that makes text."""

    step_milliseconds: float = 1.0
    """Of the host for one forward pass, whatever the model: sampling, stopping, scheduling."""
    layer_microseconds: float = 300.0
    """Of the host for one layer: Python and the launch of its kernels."""
    sharpness: float = 2.5
    """Of the overlap of host and GPU: 1 where they take turns, high where the longer one hides the other."""
    expert_microseconds: float = 2.0
    """Of the host for each expert of each layer: large where they are visited one by one."""
    weight_share: float = 0.75
    """Of the memory's bandwidth, reading weights."""
    cache_passes: float = 3.0
    """Times that the key/value cache is moved for one token, at the bandwidth of the data sheet."""
    expanded_gb_per_second: float = 2000.0
    """Of the kernel in which one sequence's token attends to keys and values, counted for each query head, on any GPU:
    one sequence does not fill it. Several share the bandwidth."""
    eager_layer_microseconds: float = 150.0
    """Of the host for one layer, more, beyond `eager_after_tokens` of context."""
    eager_after_tokens: float = 1e9
    """Longest context that CUDA graphs are recorded for."""
    sequence_factor: float = 0.002
    """Time of the weights' products that each sequence of a batch beyond the first adds, as a share of the first's."""
    compute_share: float = 0.6
    """Of what large matrix products reach on the GPU, in the prefill."""
    attention_share: float = 0.4
    reduce_microseconds: float = 20.0
    """One all-reduce of tensor parallel, before its bytes."""
    link_share: float = 0.4
    """Of the link to the host, for what does not fit on the GPU."""
    stored: Mapping[str, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A trainer."""

    matmul_share: float = 0.75
    """Of what large matrix products reach on the GPU."""
    attention_share: float = 0.5
    traffic_passes: float = 1.0
    """Of the elementwise work between the products, in units of `step_time.BLOCK_PASSES`."""
    layer_microseconds: float = 600.0
    """Of the host for one layer's forward pass."""
    expert_microseconds: float = 20.0
    """Of the host for the forward pass of each expert of each layer."""
    expert_share: float = 0.6
    """Of the products' speed, in the smaller matrices of experts."""
    step_milliseconds: float = 20.0
    """Of the host for one micro-batch: loading, logging."""
    link_share: float = 0.6
    """Of the links between GPUs."""
    host_link_share: float = 0.6
    stored: Mapping[str, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """All constants, by engine, and by GPU."""

    generating: Mapping[str, Generating]
    training: Mapping[str, Training]
    reachable: Mapping[str, float]
    """Of the data sheet's TFLOPS, by GPU, what the best large matrix products reach."""
    reachable_memory: Mapping[str, float]
    """Of the data sheet's bandwidth, by GPU, where it is less than other GPUs reach of theirs."""
    rows: Mapping[str, int]
    """Measurements by engine, and by engine and GPU."""
    spread: Mapping[str, float]
    """By engine, and by engine and GPU: 80 % of the measurements that were held out lie within this factor."""
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By engine: of `speed.UNMEASURED_FEATURES` those that measurements have."""


NO_STORED = Stored()


def stored_constants(engine: Generating | Training, stored: str, *, experts: bool) -> Stored | None:
    """None where the matrices are as they are."""
    if not stored:
        return None
    known = engine.stored
    # Where experts are not visited one by one, a kernel of its own serves the quantised ones.
    if experts and f"{stored}-experts" in known:
        return known[f"{stored}-experts"]
    # Scales that are quantised too are a small part of the work.
    return known.get(stored) or known.get(stored.removesuffix("-dq")) or known.get("other") or NO_STORED


def generating_key(workload: Workload) -> str:
    software = workload.software
    if software.engine == "transformers":
        if (4, 48) <= software.version < (5,) and workload.quantise == "awq-int4":
            return "transformers, fused AWQ"
        for before, key in (
            ((4, 30), "transformers 4.2x"),
            ((4, 39), "transformers 4.3x"),
            ((4, 48), "transformers 4.4x"),
        ):
            if software.version < before:
                return key
        return "transformers"
    if software.engine == "vllm":
        return "vllm 0.4" if software.version < (0, 5) else "vllm"
    return software.engine


def training_key(workload: Workload) -> str:
    software = workload.software
    if software.engine == "transformers":
        return "transformers" if software.kernels == "plain" else f"transformers {software.kernels}"
    return software.engine


@cache
def learned() -> Learned:
    return from_json(json.loads((Path(__file__).parent / "efficiency.json").read_text("utf-8")))


def from_json(table: Mapping[str, Any]) -> Learned:
    return Learned(
        generating={key: engine(Generating, row) for key, row in table["generating"].items()},
        training={key: engine(Training, row) for key, row in table["training"].items()},
        reachable=table["reachable"],
        reachable_memory=table["reachable_memory"],
        rows=table["rows"],
        spread=table["spread"],
        features=table["features"],
    )


def engine(kind: type[Any], row: Mapping[str, Any]) -> Any:
    known = {one.name for one in fields(kind)}
    values = {key: value for key, value in row.items() if key in known and key != "stored"}
    return kind(**values, stored={key: Stored(**each) for key, each in row.get("stored", {}).items()})
