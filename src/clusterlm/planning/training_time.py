"""Seconds of one optimizer step by what takes them: products, elementwise work, host, communication, optimizer."""

from __future__ import annotations

from clusterlm.planning.case import Case
from clusterlm.planning.efficiency import Learned, Training, stored_constants
from clusterlm.planning.links import Links, tensor_gb_per_second
from clusterlm.planning.network import gradient_element_bytes
from clusterlm.planning.step_time import (
    BLOCK_PASSES,
    DISK_GB_PER_SECOND,
    FLASH_ATTENTION_FLOPS,
    MLP_PASSES,
    Parts,
    bandwidth,
    expert_visits,
    overlapped,
    peak_flops,
)
from clusterlm.planning.weights import element_bytes
from clusterlm.planning.work import Work, trained_of, work_of
from clusterlm.strategy import SHARDS_OPTIMIZER, SHARDS_PARAMETERS

COMMUNICATION_SHARPNESS = 2.0
"""Of the overlap of products and communication: of two equal parts 41 % of one shows."""
HEAD_PASSES = 12.0
"""Times that the logits are moved in a training step, in 16 bits: cast, softmax, loss, gradient."""
FUSED_LOSS_PASSES = 3.0
SELECTIVE_RECOMPUTED = 0.35
"""Share of a forward pass that torchtitan's checkpointing by operator computes again: every other product."""
EXPERT_PARALLEL = "scattermoe-ep"
"""fms-acceleration's plugin: each GPU keeps experts of its own, outside of FSDP."""
PIPELINE_BUBBLE = 1.2
"""Time of a pipelined step over a full one's: (stages - 1) / micro-batches are idle (Megatron-LM, arXiv 2104.04473)."""
HOST_PASSES = 2.5
"""Of forward passes that forward and backward keep the host busy for: autograd's engine is not Python."""
OPTIMIZER_PASSES = {
    "adamw": 7.0, "adamw-fused": 7.0, "adamw-8bit": 4.5, "paged-adamw-8bit": 4.5, "adafactor": 5.0, "sgd": 3.0,
}  # fmt: skip
"""Bytes moved for each byte of a trained parameter: parameter, gradient and both moments read, all but the gradient
written."""
OPTIMIZER_SHARE = 0.6
"""Of the memory's bandwidth, in the optimizer's elementwise kernels."""
HOST_MEMORY_GB_PER_SECOND = 100.0
"""Of one node in an optimizer step on its CPU. torchtune's 70B with CPU offload on 8 A100: about 7 s beside the
products, for 70B x 14 bytes."""


def training_seconds(case: Case, trainer: Training, links: Links, learned: Learned) -> Parts:
    """One optimizer step with its accumulation."""
    work, steps = work_of(case.shape, case.workload), case.accumulation_steps
    compute = _micro_batch(case, trainer, work, learned)
    gathers, reduction, after = _sent_bytes(case)
    speed = link_bytes_per_second(case, links) * trainer.link_share
    busy = sum(compute.values())
    shown = steps * (overlapped(busy, gathers / speed, COMMUNICATION_SHARPNESS) - busy)
    shown += overlapped(busy, reduction / speed, COMMUNICATION_SHARPNESS) - busy
    parts = {name: steps * seconds for name, seconds in compute.items()}
    parts["communication"] = shown + after / speed + _tensor_parallel(case, trainer, steps, work, links)
    return parts | _update(case, trainer, learned, steps)


def link_bytes_per_second(case: Case, links: Links) -> float:
    """Of one GPU's data in a ring over all of them. What a ring carries enters a node once, through all its ports, and
    goes from GPU to GPU inside; where the model is cut, each cut has a ring of its own, and they share the ports."""
    strategy = case.strategy
    each = links.gpu_gb_per_second
    if strategy.nodes > 1:
        rings = min(strategy.tensor_degree * strategy.pipeline_degree, strategy.gpus_per_node)
        each = min(each, links.node_gb_per_second / rings)
    return each * 1e9


def _micro_batch(case: Case, trainer: Training, work: Work, learned: Learned) -> Parts:
    workload, strategy = case.workload, case.strategy
    stored = stored_constants(trainer, work.stored, experts=bool(work.mixtures))
    cut = strategy.tensor_degree * strategy.context_degree * _stages_at_once(case)
    again = 1.0 if workload.checkpointing and not workload.selective_checkpointing else 0.0
    again = SELECTIVE_RECOMPUTED if workload.selective_checkpointing else again
    # A frozen matrix has a gradient of its input alone; an adapter on it is small beside it.
    backward = 2.0 if workload.method == "full" else 1.0
    peak = peak_flops(case, learned)
    products = _product_seconds(case, trainer, work, peak) * (1 + backward + again)
    if stored:
        products *= stored.compute_factor
    attention = workload.batch * work.attention_flops(workload.sequence_tokens) * (1 + 2.5 + again)
    products += attention / (min(peak, FLASH_ATTENTION_FLOPS) * trainer.attention_share)
    seconds = (products + _elementwise_seconds(case, trainer, learned, work, 3 + again)) / cut
    forward = work.layers * trainer.layer_microseconds + (work.matrices * stored.matrix_microseconds if stored else 0)
    forward += expert_visits(case, work, trainer.expert_microseconds) * trainer.expert_microseconds
    host = trainer.step_milliseconds * 1e-3 + forward * (HOST_PASSES + again) * 1e-6
    overhead = overlapped(host, seconds) - seconds
    return {"compute": products / cut, "memory": seconds - products / cut, "overhead": overhead}


def _stages_at_once(case: Case) -> float:
    """Stages of a pipeline that work at the same time; layers that transformers lays over GPUs take turns."""
    stages = case.strategy.pipeline_degree
    return 1.0 if stages == 1 or case.workload.software.engine == "transformers" else stages / PIPELINE_BUBBLE


def _product_seconds(case: Case, trainer: Training, work: Work, peak: float) -> float:
    """Of one forward pass."""
    tokens = case.workload.tokens
    experts = sum(one.layers * one.active * one.expert_weights for one in work.mixtures)
    dense = 2 * (work.dense_weights + work.head_weights) * tokens
    adapters = 0.0
    if case.workload.method != "full":
        adapters = 2 * trained_of(case.shape, case.workload) * tokens
    return (dense + adapters + 2 * experts * tokens / trainer.expert_share) / (peak * trainer.matmul_share)


def _elementwise_seconds(case: Case, trainer: Training, learned: Learned, work: Work, passes: float) -> float:
    workload = case.workload
    size = 4.0 if case.compute_dtype == "float32" else 2.0
    blocks = work.layers * (BLOCK_PASSES * work.hidden_size + MLP_PASSES * work.widest) * passes
    if workload.software.kernels == "fused-loss" or workload.chunked_loss or workload.software.compiled:
        head = FUSED_LOSS_PASSES
    else:
        head = HEAD_PASSES
    moved = workload.tokens * size * (trainer.traffic_passes * blocks + head * work.vocabulary_size)
    moved += work.weight_bytes(workload.tokens) * passes
    return moved / bandwidth(case.gpu, learned)


def _sent_bytes(case: Case) -> tuple[float, float, float]:
    """Of one GPU: in each micro-batch, once a step beside its products, and once when the optimizer is through, beside
    nothing: ZeRO-1 and 2 then gather the new weights. ZeRO-2 scatters gradients after every micro-batch."""
    workload, strategy = case.workload, case.strategy
    ranks = strategy.data_degree * strategy.context_degree
    if ranks < 2:
        return 0.0, 0.0, 0.0
    share = (ranks - 1) / ranks
    cut = strategy.tensor_degree * strategy.pipeline_degree
    trained = _gathered_bytes(case) / 2 if workload.software.engine == EXPERT_PARALLEL else _trained(case)
    gradients = trained * gradient_element_bytes(workload, strategy) / cut
    if strategy.sharding in SHARDS_PARAMETERS:
        weights = _gathered_bytes(case) / cut
        return share * (2 * weights + gradients), 0.0, 0.0
    if strategy.sharding == "zero1":
        return 0.0, share * gradients, share * gradients
    if strategy.sharding == "zero2":
        return share * gradients, 0.0, share * gradients
    return 0.0, 2 * share * gradients, 0.0


def _gathered_bytes(case: Case) -> float:
    """Weights that travel: in the type computed in, or as stored; where experts stay on their GPUs, the others."""
    work = work_of(case.shape, case.workload)
    if case.workload.software.engine == EXPERT_PARALLEL:
        return work.dense_bytes
    if case.workload.method == "full":
        return case.shape.parameters * element_bytes(case.workload.dtype)
    return work.all_bytes


def _trained(case: Case) -> float:
    return float(trained_of(case.shape, case.workload))


def _tensor_parallel(case: Case, trainer: Training, steps: int, work: Work, links: Links) -> float:
    degree = case.strategy.tensor_degree
    if degree < 2:
        return 0.0
    passes = 2 + case.workload.checkpointing
    states = case.workload.tokens * work.hidden_size * element_bytes(case.workload.dtype)
    sent = 2 * (degree - 1) / degree * 2 * passes * work.layers * states
    return steps * sent / (tensor_gb_per_second(case.strategy, links) * 1e9 * trainer.link_share)


def _updated_bytes(case: Case) -> float:
    """Moved by the optimizer's step for one trained parameter, whose states are those that planning/training.py counts:
    in float32 under autocast, and in DeepSpeed, which also casts 16-bit gradients up and the new weights down."""
    workload = case.workload
    whole = workload.method == "full"
    size = element_bytes(workload.dtype if whole else workload.adapter_dtype)
    passes = OPTIMIZER_PASSES[workload.optimizer]
    if case.strategy.sharding.startswith("zero") and size < 4:
        return 4 * passes + 2 * (4 + size)
    return passes * (4 if workload.autocast and whole else size)


def _update(case: Case, trainer: Training, learned: Learned, steps: int) -> Parts:
    """The optimizer's step, and what offloading moves over the link to the host."""
    workload, strategy = case.workload, case.strategy
    cut = strategy.tensor_degree * strategy.pipeline_degree
    shards = strategy.data_degree * strategy.context_degree if strategy.sharding in SHARDS_OPTIMIZER else 1
    own = _trained(case) / cut / shards
    moved = own * _updated_bytes(case)
    if strategy.offload == "none":
        return {"optimizer": moved / (bandwidth(case.gpu, learned) * OPTIMIZER_SHARE)}
    here = min(strategy.gpus_per_node, strategy.gpus)
    parts = {"optimizer": moved * here / (HOST_MEMORY_GB_PER_SECOND * 1e9)}
    weights = _gathered_bytes(case) / cut / shards
    over_link = 2 * own * element_bytes(workload.dtype)
    if strategy.offload in ("cpu", "nvme"):
        over_link += steps * (2 * weights + own * element_bytes(workload.dtype))
    parts["offload"] = over_link / (case.gpu.host_link_gb_per_second * 1e9 * trainer.host_link_share)
    if strategy.offload == "nvme":
        parts["offload"] += here * moved / (DISK_GB_PER_SECOND * 1e9)
    return parts
