"""Room: how much of a card an engine may use, and whether a case fits into it."""

from __future__ import annotations

from clusterlm.planning.case import Case

VLLM_SHARE = 0.9
"""vLLM: gpu_memory_utilization."""


def available_bytes(case: Case) -> int:
    share = VLLM_SHARE if case.workload.software.engine == "vllm" else 1.0
    return round(case.gpu.memory_bytes * share)


def fits(case: Case) -> bool:
    return case.on_gpu.needed <= available_bytes(case)
