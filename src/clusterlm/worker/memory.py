"""How much memory is free, and whether an exception says that it was not enough."""

from __future__ import annotations

from pathlib import Path

import torch

SHARE_OF_FREE_MEMORY = 0.5
"""For keys and values; the rest is for activations, logits and what else runs here."""

CPU_ALLOCATOR_SAYS = ("can't allocate memory", "not enough memory", "bad_alloc")

CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where a Slurm job or a container is held to less than the machine has (cgroup v2, v1)."""


def free_bytes(device: torch.device) -> int:
    """What keys and values may take on `device`."""
    if device.type == "cpu":
        return int(min(_available_on_host(), *_available_in_cgroup()) * SHARE_OF_FREE_MEMORY)
    torch.accelerator.empty_cache()
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free * SHARE_OF_FREE_MEMORY)


def is_out_of_memory(problem: BaseException) -> bool:
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(problem) for words in CPU_ALLOCATOR_SAYS)


def _available_on_host() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux 3.14 and newer tell MemAvailable")


def _available_in_cgroup() -> list[int]:
    found = [_available_on_host()]
    for limit_file, usage_file in CGROUP_LIMITS:
        try:
            limit, usage = Path(limit_file).read_text().strip(), Path(usage_file).read_text()
        except OSError:
            continue
        if limit != "max":
            found.append(max(0, int(limit) - int(usage)))
    return found
