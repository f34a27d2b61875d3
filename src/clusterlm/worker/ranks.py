"""Ranks: the processes of one job, each with its share of the records and of its node's devices."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from clusterlm.errors import RunError

THREADS = "OMP_NUM_THREADS"
VISIBLE_DEVICES = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""The first of these that is set counts the devices; those behind it count within what it leaves."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process's place among those that torchrun started; alone without torchrun."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1
    """On the same node."""

    @property
    def is_alone(self) -> bool:
        return self.ranks == 1


def ranks_of_this_job(environment: Mapping[str, str] = os.environ) -> Ranks:
    """As torchrun tells its processes."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return Ranks()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(environment[name]) for name in names))


def share_node(ranks: Ranks, environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave each process its own devices and threads; before torch is imported, which looks at them once."""
    if ranks.local_ranks == 1:
        return
    share_threads(ranks, environment)
    name, devices = _visible(environment)
    if not devices:
        return
    if len(devices) < ranks.local_ranks:
        problem = f"{ranks.local_ranks} processes share a node, and it shows them {len(devices)} GPUs ({name})"
        raise RunError(problem, hint="ask for as many GPUs as copies of the model, or for fewer copies")
    first = ranks.local_rank * len(devices) // ranks.local_ranks
    behind = (ranks.local_rank + 1) * len(devices) // ranks.local_ranks
    own = devices[first:behind]
    for other in VISIBLE_DEVICES:
        # A second list would be read as places within the first.
        environment.pop(other, None)
    environment[name] = ",".join(own)


def share_threads(ranks: Ranks, environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave each process of a node its part of the cores; before torch is imported."""
    # torchrun sets 1 where its user set nothing: a model on CPUs would leave the other cores idle.
    if environment.get(THREADS, "1") == "1":
        environment[THREADS] = str(max(1, len(os.sched_getaffinity(0)) // ranks.local_ranks))


def _visible(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """The name of the list, and the devices in it; where none is set, all that the node has."""
    for name in VISIBLE_DEVICES:
        if environment.get(name) is not None:
            return name, [device for device in environment[name].split(",") if device]
    nvidia = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if nvidia:
        return "CUDA_VISIBLE_DEVICES", [str(number) for number in range(nvidia)]
    return "ROCR_VISIBLE_DEVICES", [str(number) for number in range(_amd_devices())]


def _amd_devices() -> int:
    """Nodes of the kernel's topology that can compute and are no CPU."""
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return sum(path.read_text().strip() not in ("", "0") for path in nodes)
