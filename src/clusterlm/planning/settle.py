"""From wishes to a case: what was left open is settled as the libraries would, and what contradicts is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from clusterlm.cluster import Gpu
from clusterlm.errors import UsageError
from clusterlm.model.shape import BYTES_PER_ELEMENT, ModelShape
from clusterlm.planning.case import Case
from clusterlm.planning.refusals import NO_FLOAT16_IN_VLLM, refuse, usual_half
from clusterlm.planning.serving import default_limits
from clusterlm.planning.wishes import Wishes
from clusterlm.planning.workload import Method, Optimizer, Software, Task, Workload
from clusterlm.strategy import CAN_OFFLOAD, UNCUT_BY_FSDP, Offload, Sharding, Strategy

SEQUENCE_TOKENS = 2048
NEW_TOKENS = 256
LARGEST_NODE = 8
"""GPUs in one node where the user does not say."""
VLLM_VERSION = (0, 19)
SHARDING = {"ddp": "ddp", "fsdp": "fsdp2", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"}


@dataclass(frozen=True)
class Precision:
    """The type of the weights, and whether 16 bits are computed in over them."""

    dtype: str
    autocast: bool


def settle(shape: ModelShape, gpu: Gpu, wishes: Wishes) -> Case:
    """UsageError or ModelError where no such run is possible; a run that needs too much memory is possible."""
    strategy = settle_strategy(wishes)
    steps = accumulation_steps(wishes, strategy)
    case = Case(
        shape=shape,
        workload=settle_workload(shape, gpu, wishes, strategy, accumulates=steps > 1),
        strategy=strategy,
        gpu=gpu,
        accumulation_steps=steps,
        keep_checkpoints=wishes.keep_checkpoints or 2,
        dataset_tokens=wishes.dataset_tokens,
    )
    refuse(case)
    return case


def settle_workload(shape: ModelShape, gpu: Gpu, wishes: Wishes, strategy: Strategy, *, accumulates: bool) -> Workload:
    task = wishes.asked_task
    trains = task == "train"
    method = wishes.method or "full"
    precision = settle_precision(shape, gpu, wishes, strategy.sharding)
    context = shape.context_tokens
    sequence = wishes.sequence_length or (min(SEQUENCE_TOKENS, context) if context else SEQUENCE_TOKENS)
    new_tokens = (wishes.new_tokens or NEW_TOKENS) if task == "generate" else 0
    if not wishes.sequence_length and context and task == "generate":
        sequence = max(1, min(sequence, context - new_tokens))
    checkpointing = wishes.gradient_checkpointing if wishes.gradient_checkpointing is not None else trains
    vllm = wishes.engine == "vllm"
    limits = default_limits(VLLM_VERSION, gpu, offline=True, context_tokens=context)
    return Workload(
        task=cast(Task, task),
        method=cast(Method, method),
        dtype=precision.dtype,
        autocast=precision.autocast,
        batch=(wishes.micro_batch if trains else wishes.batch) or 1,
        sequence_tokens=sequence,
        new_tokens=new_tokens,
        checkpointing=checkpointing and trains,
        attention=wishes.attention or "sdpa",  # type: ignore[arg-type]
        optimizer=cast(Optimizer, wishes.optimizer or "adamw-fused"),
        accumulation=accumulates,
        quantise=wishes.quantize or ("nf4-dq" if method == "qlora" and shape.quantisation is None else None),
        lora_rank=wishes.lora_rank or 16,
        lora_targets=wishes.lora_targets or ("all-linear",),
        max_sequences=limits[0],
        max_batched_tokens=limits[1],
        software=Software(engine="vllm", version=VLLM_VERSION) if vllm else Software(),
    )


def settle_precision(shape: ModelShape, gpu: Gpu, wishes: Wishes, sharding: str) -> Precision:
    """auto: the checkpoint's own type; full fine-tuning has float32 weights and computes in 16 bits, as TRL does."""
    asked = wishes.dtype or "auto"
    vllm = wishes.engine == "vllm"
    half = usual_half(shape, gpu, "vllm" if vllm else "transformers")
    trains = wishes.asked_task == "train"
    fully = trains and (wishes.method or "full") == "full"
    if asked == "auto":
        stored = shape.dtype if BYTES_PER_ELEMENT.get(shape.dtype, 0) >= 2 else half
        # vLLM's "auto" keeps the stored type only if it is one of 16 bits that it has (_resolve_auto_dtype).
        lost = vllm and (stored == "float32" or shape.architecture in NO_FLOAT16_IN_VLLM)
        in_half = fully or stored == "bfloat16" or lost
        dtype = half if in_half else stored
    else:
        dtype = asked
    if not trains or sharding.startswith("zero"):
        # DeepSpeed holds weights in 16 bits and their float32 copies itself, without autocast.
        return Precision(dtype, autocast=False)
    usual = asked == "auto" if fully else dtype != "float32"
    autocast = usual if wishes.autocast is None else wishes.autocast
    # FSDP's own mixed precision names the type to compute in; elsewhere the weights simply are float32.
    in_float32 = fully and autocast and not sharding.startswith("fsdp")
    return Precision("float32" if in_float32 else dtype, autocast)


def settle_strategy(wishes: Wishes) -> Strategy:
    gpus = wishes.gpus or 1
    per_node = wishes.gpus_per_node or LARGEST_NODE
    trains = wishes.asked_task == "train"
    name = wishes.strategy or usual_strategy(wishes, gpus)
    if name == "single" and gpus > 1:
        hint = f"--strategy {'fsdp' if trains else 'pipeline'}, or --gpus 1"
        raise UsageError(f"uses one GPU, and {gpus} are asked for", where="--strategy single", hint=hint)
    if name != "single" and gpus == 1:
        raise UsageError("needs at least 2 GPUs", where=f"--strategy {name}", hint="--gpus 2, or --strategy single")
    if name in ("fsdp", "zero1", "zero2", "zero3") and not trains:
        hint = "pipeline or tensor cuts the model; ddp gives each GPU a whole one"
        raise UsageError("belongs to training", where=f"--strategy {name}", hint=hint)
    if gpus > per_node and gpus % per_node:
        nodes = -(-gpus // per_node)
        hint = f"--gpus {nodes * per_node} fills {nodes} nodes; or say --gpus-per-node"
        raise UsageError(f"{gpus} GPUs leave some idle on nodes of {per_node}", where="--gpus", hint=hint)
    tensor, pipeline = _degrees(wishes, name, gpus_of_a_copy(wishes, name, gpus), per_node)
    return Strategy(
        gpus=gpus,
        gpus_per_node=per_node,
        tensor_degree=tensor,
        pipeline_degree=pipeline,
        sharding=cast(Sharding, SHARDING.get(name, "none") if trains else "none"),
        offload=_offload(wishes, name),
    )


def _degrees(wishes: Wishes, strategy: str, each: int, per_node: int) -> tuple[int, int]:
    """Tensor and pipeline; vLLM cuts tensors within a node, and layers over nodes, as its documentation advises."""
    if strategy not in ("tensor", "pipeline"):
        return 1, 1
    if strategy == "tensor" and wishes.engine == "vllm" and each > per_node:
        return per_node, each // per_node
    return (each, 1) if strategy == "tensor" else (1, each)


def gpus_of_a_copy(wishes: Wishes, strategy: str, gpus: int) -> int:
    """GPUs that one whole model is cut over."""
    copies = wishes.copies or 1
    if wishes.copies and strategy not in ("tensor", "pipeline"):
        hint = "--strategy pipeline or tensor cuts each copy; ddp has one on each GPU"
        raise UsageError(f"belongs to a model that is cut; the strategy is {strategy}", where="--copies", hint=hint)
    if gpus % copies:
        able = ", ".join(str(count) for count in range(1, gpus + 1) if gpus % count == 0)
        raise UsageError(f"{gpus} GPUs cannot be shared by {copies} copies", where="--copies", hint=f"one of {able}")
    return gpus // copies


def usual_strategy(wishes: Wishes, gpus: int) -> str:
    """What clusterlm's own jobs do with several GPUs."""
    if gpus == 1:
        return "single"
    if wishes.asked_task == "train":
        return "ddp" if wishes.optimizer in UNCUT_BY_FSDP else "fsdp"
    return usual_cut(wishes)


def usual_cut(wishes: Wishes) -> str:
    """How an engine spreads one model over GPUs to generate."""
    return "tensor" if wishes.engine == "vllm" else "pipeline"


def _offload(wishes: Wishes, strategy: str) -> Offload:
    asked = wishes.offload or "none"
    if asked == "none":
        return "none"
    if asked not in CAN_OFFLOAD.get(strategy, ()):
        able = [name for name, ways in CAN_OFFLOAD.items() if asked in ways]
        raise UsageError(
            f"cannot offload to {asked}", where=f"--strategy {strategy}", hint=f"--strategy {' or '.join(able)}"
        )
    return "optimizer-cpu" if strategy in ("zero1", "zero2") else asked


def accumulation_steps(wishes: Wishes, strategy: Strategy) -> int:
    """Micro-batches of each GPU in one step of the global batch."""
    if wishes.asked_task != "train" or wishes.batch is None:
        return 1
    at_once = (wishes.micro_batch or 1) * strategy.data_degree
    if wishes.batch % at_once:
        below, above = wishes.batch // at_once * at_once, -(-wishes.batch // at_once) * at_once
        near = " or ".join(f"--batch {number}" for number in (below, above) if number)
        parts = f"{wishes.micro_batch or 1} sequences x {strategy.data_degree} GPUs"
        raise UsageError(f"{wishes.batch} is no multiple of {parts}", where="--batch", hint=near)
    return wishes.batch // at_once
