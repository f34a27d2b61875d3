"""Gauge: what a training takes of its devices: memory, the share of their peak speed, hours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clusterlm.cluster import Gpu, gpus
from clusterlm.cluster.cards import card_of
from clusterlm.errors import ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.work import learning_flops
from clusterlm.planning.workload import Workload
from clusterlm.spec import TrainSpec
from clusterlm.store import config_folder
from clusterlm.worker.training.precision import Precision
from clusterlm.worker.training.start import gathered, peak_host_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, the most at once since the first step; of several processes that of the one that takes most."""

    bytes: int
    """Tensors on the GPU; without one, all of the process, from its start on."""
    reserved_bytes: int
    """What torch keeps of the GPU for them; 0 without one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """By one step; the hours by all of an attempt's until then."""

    seconds: float
    tokens: int
    memory: Memory
    mfu: float | None
    """Model FLOPs utilisation: of the peak speed of all devices."""
    gpu_hours: float | None
    """None without a GPU."""

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True)
class Gauge:
    processes: int
    card: Gpu | None
    """None for a CPU, and for a card that gpus.toml does not know."""
    shape: ModelShape | None
    """None for a model that the planner does not know."""
    workload: Workload
    peak_flops: float | None
    """Of one device, a second, in the type that is computed in, by its data sheet."""

    @property
    def on_gpu(self) -> bool:
        return torch.accelerator.is_available()

    def memory(self) -> Memory:
        """Of this process."""
        if not self.on_gpu:
            return Memory(peak_host_bytes(), 0)
        device = _device_module()
        return Memory(device.max_memory_allocated(), device.max_memory_reserved())

    def begin(self) -> None:
        """From here on the memory is counted: on a GPU not what loading the model took before."""
        if self.on_gpu:
            _device_module().reset_peak_memory_stats()

    def use(self, lengths: Sequence[int], seconds: float) -> float | None:
        """MFU, of sequences of so many tokens; None without a peak to compare with."""
        if self.shape is None or self.peak_flops is None or not seconds:
            return None
        return learning_flops(self.shape, self.workload, lengths) / (seconds * self.processes * self.peak_flops)

    def gpu_hours(self, seconds: float) -> float | None:
        return self.processes * seconds / 3600 if self.on_gpu else None


def gauge_of(spec: TrainSpec, model: Path, precision: Precision, processes: int) -> Gauge:
    card = _smallest_card()
    workload = Workload(task="train", method=spec.method, lora_rank=spec.lora_rank, lora_targets=spec.lora_targets)
    return Gauge(processes, card, _shape(model), workload, _peak_flops(card, precision))


def _device_module() -> Any:
    """torch.cuda and its like; torch.accelerator counts memory only from torch 2.9 on, and sites have older ones."""
    return torch.get_device_module(torch.accelerator.current_accelerator())


def _smallest_card() -> Gpu | None:
    """Of all processes; None where one has none, or one that gpus.toml does not know."""
    own = _card()
    keys = gathered(own.key if own else None)
    return None if None in keys else min((gpus()[key] for key in keys), key=lambda card: card.memory_bytes)


def _card() -> Gpu | None:
    if not torch.accelerator.is_available() or not torch.cuda.is_available():
        return None
    own = torch.cuda.get_device_properties(torch.cuda.current_device())
    return card_of(own.name, own.total_memory)


def _shape(model: Path) -> ModelShape | None:
    try:
        return shape_from_config(json.loads((config_folder(model) / "config.json").read_bytes()), model.name)
    except (ModelError, OSError, ValueError):
        return None


def _peak_flops(card: Gpu | None, precision: Precision) -> float | None:
    dtype = precision.autocast or precision.weights
    if card is None or dtype is None:
        return None
    if dtype is not torch.float32:
        return card.half_tflops * 1e12
    rounded = torch.backends.cuda.matmul.allow_tf32 and card.tf32_tflops
    return (rounded or card.float32_tflops) * 1e12
