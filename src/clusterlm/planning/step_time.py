"""Seconds of a forward pass by what takes them, from the work, the data sheet and the learned constants.

Host and GPU work at the same time, and so do products and communication: of two that overlap, the longer one shows
and a little of the shorter one (`overlapped`).
"""

from __future__ import annotations

from clusterlm.cluster import Gpu
from clusterlm.planning.case import Case
from clusterlm.planning.efficiency import Generating, Learned, Stored, stored_constants
from clusterlm.planning.links import Links, stage_hops, tensor_gb_per_second
from clusterlm.planning.weights import element_bytes
from clusterlm.planning.work import Work, work_of

Parts = dict[str, float]
SHARPNESS = 2.5
"""Of the overlap: of two equal parts 19 % of one shows beside the other."""
BLOCK_PASSES = 24.0
"""Times that one layer's forward pass moves its hidden states beside the products: norms, residuals, casts."""
MLP_PASSES = 6.0
"""The same of the MLP's width: activation and gate."""
SAMPLED_BYTES = 16.0
"""Bytes moved for each logit of a token that is sampled: the cast to float32 and the passes of the sampler."""
FLASH_ATTENTION_FLOPS = 416e12
"""FlashAttention 2 does not use what Hopper added: about 350 TFLOPS on an H100 where an A100 has about 225 (its paper,
and FlashAttention 3's); so its H100 counts as 1.55 A100 of 268."""
EXPERT_MATRICES = 3
"""Gate, up and down."""
GROUPED_MICROSECONDS = 10.0
"""An engine that needs less for each expert does not visit them one by one."""
FILLED_SHARE = 0.7
"""Of the bandwidth, by attention over the caches of many sequences."""
RESIDENT_SHARE = 0.6
"""Of the GPU's memory, for weights of a model that does not fit whole; the rest is cache and working memory."""
DISK_GB_PER_SECOND = 3.0
"""A node's NVMe: data sheets of single drives on PCIe 3 and 4 say 2 to 7."""
SWAP_HOPS_SECONDS = 50e-6
"""From one stage of a model that is laid over GPUs to the next, before its bytes."""
LINK_SHARE = 0.6
"""Of the links between GPUs, in generation."""


def overlapped(first: float, second: float, sharpness: float = SHARPNESS) -> float:
    longer, shorter = (first, second) if first > second else (second, first)
    if shorter <= 0:
        return max(0.0, longer)
    return longer * float((1 + (shorter / longer) ** sharpness) ** (1 / sharpness))


def peak_flops(case: Case, learned: Learned, *, eight_bit: bool = False) -> float:
    """What large products reach on this GPU in the type that is computed in."""
    gpu = case.gpu
    reachable = reachable_share(gpu, learned)
    if eight_bit and gpu.eight_bit_tflops:
        return gpu.eight_bit_tflops * 1e12 * reachable
    emulated = case.compute_dtype == "bfloat16" and not gpu.bfloat16
    if case.compute_dtype == "float32" or emulated:
        return gpu.float32_tflops * 1e12 * reachable
    return gpu.half_tflops * 1e12 * reachable


def reachable_share(gpu: Gpu, learned: Learned) -> float:
    return learned.reachable.get(gpu.key) or learned.reachable["other"]


def groups_experts(case: Case) -> bool:
    """transformers 5, as serving engines, has one grouped product for all experts of a layer."""
    software = case.workload.software
    return software.engine == "transformers" and software.version >= (5,)


def expert_visits(case: Case, work: Work, microseconds: float) -> int:
    """Experts that the host visits one by one."""
    return 0 if groups_experts(case) or microseconds < GROUPED_MICROSECONDS else work.expert_visits


def bandwidth(gpu: Gpu, learned: Learned) -> float:
    return gpu.memory_gb_per_second * 1e9 * learned.reachable_memory.get(gpu.key, 1.0)


def prefill_seconds(case: Case, engine: Generating, learned: Learned, links: Links) -> Parts:
    """One forward pass over whole prompts; the head works on the last token of each."""
    workload, work = case.workload, work_of(case.shape, case.workload)
    stored = stored_constants(engine, work.stored, experts=bool(work.mixtures))
    peak = peak_flops(case, learned)
    sequences = max(1, workload.batch)
    tokens = sequences * workload.sequence_tokens
    products = work.forward_flops(tokens) + work.head_flops(sequences)
    attention = sequences * work.attention_flops(workload.sequence_tokens)
    compute = products / (peak * engine.compute_share) * (stored.compute_factor if stored else 1)
    compute += attention / (min(peak, FLASH_ATTENTION_FLOPS) * engine.attention_share)
    moved = tokens * work.layers * (BLOCK_PASSES * work.hidden_size + MLP_PASSES * work.widest)
    moved = work.weight_bytes(tokens) + moved * element_bytes(workload.dtype)
    memory = moved / bandwidth(case.gpu, learned) / engine.weight_share
    host = _host_seconds(case, engine, work, stored)
    parts = _with_host(case, engine, work, compute, memory, host)
    return _with_communication(parts, case, engine, work, tokens, links)


def token_seconds(case: Case, engine: Generating, learned: Learned, context: float, links: Links) -> Parts:
    """One step in which each sequence of the batch gets its next token, having `context` tokens."""
    workload, work = case.workload, work_of(case.shape, case.workload)
    stored = stored_constants(engine, work.stored, experts=bool(work.mixtures))
    batch, size = max(1, workload.batch), element_bytes(workload.kv_dtype or workload.dtype)
    speed = bandwidth(case.gpu, learned)
    weights = work.weight_bytes(batch) / speed / engine.weight_share * (stored.bytes_factor if stored else 1)
    weights *= 1 + engine.sequence_factor * (batch - 1)
    products = (work.forward_flops(batch) + work.head_flops(batch)) * (stored.compute_factor if stored else 1)
    products /= peak_flops(case, learned) * engine.compute_share
    both = overlapped(weights, products)
    cache = work.cache_elements(context) * size * engine.cache_passes / speed
    # Sequences side by side fill the GPU that one of them leaves mostly idle.
    alone = engine.expanded_gb_per_second * 1e9
    cache += work.expanded_elements(context) * size / max(alone, min(batch * alone, FILLED_SHARE * speed))
    others = (2 * work.recurrent_bytes + work.vocabulary_size * SAMPLED_BYTES) / speed
    # Of what overlaps, the longer one counts whole and the other by what shows of it.
    compute = products if products > weights else both - weights
    memory = both - compute + batch * (cache + others)
    eager = engine.eager_layer_microseconds if context > engine.eager_after_tokens else 0.0
    host = _host_seconds(case, engine, work, stored) + work.layers * eager * 1e-6
    parts = _with_host(case, engine, work, compute, memory, host)
    return _with_communication(parts, case, engine, work, batch, links)


def streamed_seconds(case: Case, engine: Generating, work: Work) -> float:
    """What does not fit on the GPU comes over its link in each forward pass; from a disk, at the disk's rate."""
    missing = max(0.0, work.all_bytes - RESIDENT_SHARE * case.gpu.memory_bytes * case.strategy.gpus)
    link = case.gpu.host_link_gb_per_second
    return (
        missing / (min(link, DISK_GB_PER_SECOND) if case.strategy.offload == "nvme" else link) / 1e9 / engine.link_share
    )


def _host_seconds(case: Case, engine: Generating, work: Work, stored: Stored | None) -> float:
    """Of one forward pass, whatever its tokens."""
    visits = expert_visits(case, work, engine.expert_microseconds)
    seconds = engine.step_milliseconds * 1e-3 + work.layers * engine.layer_microseconds * 1e-6
    seconds += visits * engine.expert_microseconds * 1e-6
    if stored:
        seconds += (work.matrices + EXPERT_MATRICES * visits) * stored.matrix_microseconds * 1e-6
    return seconds


def _with_host(case: Case, engine: Generating, work: Work, compute: float, memory: float, host: float) -> Parts:
    """Where matrices are cut, each GPU does its part, and has its own link to the host."""
    strategy = case.strategy
    degree = strategy.tensor_degree
    parts = {"compute": compute / degree, "memory": memory / degree}
    seconds = (compute + memory) / degree
    if strategy.offload != "none":
        parts["offload"] = streamed_seconds(case, engine, work) / degree
        seconds += parts["offload"]
    parts["overhead"] = max(0.0, overlapped(host, seconds, engine.sharpness) - seconds)
    return parts


def _with_communication(parts: Parts, case: Case, engine: Generating, work: Work, tokens: float, links: Links) -> Parts:
    """Hidden states: of tensor parallel two all-reduces a layer, of a pipeline one hand-over from stage to stage."""
    strategy = case.strategy
    degree = strategy.tensor_degree
    if degree * strategy.pipeline_degree == 1:
        return parts
    states = tokens * work.hidden_size * element_bytes(case.workload.dtype) / LINK_SHARE / 1e9
    seconds = 0.0
    if degree > 1:
        reduced = 2 * (degree - 1) / degree * states / tensor_gb_per_second(strategy, links)
        seconds += 2 * work.layers * (engine.reduce_microseconds * 1e-6 + reduced)
    within, between = stage_hops(strategy)
    seconds += within * (SWAP_HOPS_SECONDS + states / links.gpu_gb_per_second)
    seconds += between * (SWAP_HOPS_SECONDS + states / links.node_gb_per_second)
    return parts | {"communication": seconds}
