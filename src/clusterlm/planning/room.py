"""Room: how much of a card an engine may use, and whether a case fits into it."""

from __future__ import annotations

import math

from clusterlm.planning.case import Case
from clusterlm.planning.coefficients import CUDA_CONTEXT, at_version
from clusterlm.planning.serving import CachePool, cache_pool, graphs
from clusterlm.planning.weights import scheme_of

VLLM_SHARE = 0.9
"""vLLM: gpu_memory_utilization."""


def available_bytes(case: Case) -> int:
    """The whole card; for vLLM its share and the CUDA graphs beside it, as far as the context leaves room for both."""
    if case.workload.software.engine != "vllm":
        return case.gpu.memory_bytes
    context = at_version(CUDA_CONTEXT, case.workload.software.torch)
    return min(vllm_share(case) + graphs(case.shape).bytes, case.gpu.memory_bytes - context)


def vllm_share(case: Case) -> int:
    return round(case.gpu.memory_bytes * VLLM_SHARE)


def vllm_cache_pool(case: Case) -> CachePool:
    """What is left for keys and values on the fullest GPU; bytes below zero where not even the weights fit."""
    shape, gpu = case.shape, case.gpu
    share = (available_bytes(case) - graphs(shape).bytes) / gpu.memory_bytes
    return cache_pool(shape, case.workload, scheme_of(shape, case.workload.quantise), case.strategy, gpu, share)


def crowded(case: Case) -> tuple[str, ...]:
    """Where vLLM's usual share leaves too little beside it: CUDA graphs would run out of memory."""
    if case.workload.software.engine != "vllm":
        return ()
    share = available_bytes(case) - graphs(case.shape).bytes
    if share >= vllm_share(case):
        return ()
    lower = math.floor(100 * share / case.gpu.memory_bytes) / 100
    return (f"CUDA graphs and context need more than vLLM leaves: counted with --gpu-memory-utilization {lower:g}",)


def fits(case: Case) -> bool:
    return case.on_gpu.needed <= available_bytes(case)
