"""A Strategy in the words of accelerate and DeepSpeed: the one place where they meet.

Which of them cuts what, over all processes. Source: https://huggingface.co/docs/accelerate/concept_guides/fsdp_and_deepspeed

| clusterlm | DeepSpeed | FSDP | optimizer state | gradients | parameters |
|---|---|---|---|---|---|
| ddp | ZeRO-0 | NO_SHARD | whole | whole | whole |
| zero1 | ZeRO-1 | | cut | whole | whole |
| zero2 | ZeRO-2 | SHARD_GRAD_OP (FSDP2: reshard_after_forward=False) | cut | cut | whole |
| zero3, fsdp | ZeRO-3 | FULL_SHARD (FSDP2: reshard_after_forward=True) | cut | cut | cut |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, disable_fsdp_ram_efficient_loading, enable_fsdp_ram_efficient_loading
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import training_args
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from clusterlm.errors import RunError, UsageError
from clusterlm.spec import TrainSpec
from clusterlm.spec.own_strategy import own_strategy
from clusterlm.strategy import CAN_OFFLOAD, UNCUT_BY_FSDP
from clusterlm.worker.training.precision import Precision

Name = Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3"]
STAGES: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 3}
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def strategy_of(spec: TrainSpec, processes: int) -> Name:
    """Of the processes that there are; UsageError where they cannot do what is asked for."""
    name = _name(spec, processes)
    _check_offload(name, spec)
    if name == "fsdp" and spec.optimizer in UNCUT_BY_FSDP:  # as auto with --offload cpu
        problem = "FSDP cannot cut its states"
        raise UsageError(problem, where=f"--optimizer {spec.optimizer}", hint="--strategy zero3, or adamw-fused")
    return name


def _name(spec: TrainSpec, processes: int) -> Name:
    where = f"--strategy {spec.strategy}"
    if processes == 1:
        if spec.strategy not in ("auto", "single"):
            hint = "--gpus 2 starts two processes, on a machine without GPUs too"
            raise UsageError("shares the work of several processes, and this is one", where=where, hint=hint)
        return "single"
    if spec.strategy == "single":
        raise UsageError(f"is one process, and there are {processes}", where=where, hint="--strategy ddp")
    if spec.strategy == "auto":
        return "fsdp" if spec.offload in CAN_OFFLOAD["fsdp"] else "ddp"
    return spec.strategy


def is_strategy_open(spec: TrainSpec, processes: int) -> bool:
    """Whether nothing that was asked for says how several processes share the model."""
    return spec.strategy == "auto" and spec.offload == "none" and processes > 1


def _check_offload(name: Name, spec: TrainSpec) -> None:
    where = f"--offload {spec.offload}"
    if spec.offload != "none" and spec.offload not in CAN_OFFLOAD.get(name, ()):
        able = [other for other, ways in CAN_OFFLOAD.items() if spec.offload in ways]
        raise UsageError(f"{name} cannot do it", where=where, hint=f"--strategy {' or '.join(able)}, on several GPUs")
    if spec.offload == "cpu" and name == "fsdp" and not torch.accelerator.is_available():
        hint = "leave it out; --strategy zero3 can rehearse it"
        raise UsageError("there is no GPU for FSDP to move anything from", where=where, hint=hint)


def spread_of(name: Name, spec: TrainSpec, precision: Precision) -> dict[str, Any]:
    """What the strategy adds to the trainer's arguments."""
    if name == "fsdp":
        return {"use_cpu": False, "fsdp": True, "fsdp_config": fsdp_config(spec)}
    if name in STAGES:
        config = deepspeed_config(STAGES[name], spec, precision)
        # DeepSpeed keeps float32 copies beside weights of 16 bits by itself, and the trainer must know of it.
        return {"use_cpu": False, "deepspeed": config, "bf16": _in_bfloat16(precision)}
    return {"use_cpu": not torch.accelerator.is_available()}


def fsdp_config(spec: TrainSpec) -> dict[str, Any]:
    """Version 2: each layer cut by itself. The first process reads the weights, and sends them."""
    own = own_strategy(spec)
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_offload": spec.offload == "cpu",
        "activation_checkpointing": bool(spec.gradient_checkpointing),
        **(own.fsdp if own else {}),
        "cpu_ram_efficient_loading": reads_once("fsdp", spec),
    }


def deepspeed_config(stage: int, spec: TrainSpec, precision: Precision) -> dict[str, Any]:
    """ "auto": what the trainer fills in from its own arguments. The optimizer is the trainer's own, too: DeepSpeed's
    must be compiled on the spot, which wants a compiler on the compute node.
    """
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    place = {"device": "cpu", "pin_memory": torch.accelerator.is_available()}
    if spec.offload != "none":
        zero["offload_optimizer"] = place
    if spec.offload == "cpu" and stage == 3:
        zero["offload_param"] = place
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    ours = {
        "zero_optimization": zero,
        "bf16": {"enabled": _in_bfloat16(precision)},
        "fp16": {"enabled": precision.autocast is torch.float16},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    own = own_strategy(spec)
    return _over(ours, own.deepspeed) if own else ours


def _in_bfloat16(precision: Precision) -> bool:
    return torch.bfloat16 in (precision.autocast, precision.weights)


def _over(ours: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Ours where the user's own says nothing, section by section."""
    both = {name for name in ours.keys() & own.keys() if isinstance(ours[name], dict) and isinstance(own[name], dict)}
    return {**ours, **own, **{name: _over(ours[name], own[name]) for name in both}}


# --------------------------------------------------------------------------------------------- what it needs to be true


def reads_once(name: Name, spec: TrainSpec) -> bool:
    """Whether one process of a node alone reads the weights. 4-bit weights lose their scales on such a way."""
    own = own_strategy(spec)
    wanted = own is None or own.fsdp.get("cpu_ram_efficient_loading", True)
    return name == "fsdp" and spec.method != "qlora" and wanted


def prepare_to_cut(name: Name, spec: TrainSpec) -> None:
    """Before the trainer's arguments are made, and the model is loaded: both look for what is set here."""
    if own := own_strategy(spec):
        os.environ |= own.environment
    if name == "fsdp" or name in STAGES:
        rehearse_without_accelerator()
    if reads_once(name, spec):
        enable_fsdp_ram_efficient_loading()
    if name in STAGES and not torch.accelerator.is_available():
        import deepspeed.ops

        # Its own exchange between processes on CPUs must be compiled, by a compiler that is there; gloo does it too.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def rehearse_without_accelerator() -> None:
    """Let accelerate cut models on CPUs too. Source: accelerate 1.15, state.py.

    For its type MULTI_CPU it ignores FSDP without a word, and it drops DeepSpeed with cpu=True: every process would
    believe that it is alone. With the type of GPUs, and gloo between the processes, both really cut.
    """
    if torch.accelerator.is_available():
        return
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

    def on_gloo(self: Any, *arguments: Any, **settings: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = on_gloo
    setattr(training_args, "is_torch_bf16_gpu_available", lambda: True)  # noqa: B010 and CPUs have bfloat16


def whole_weights(trainer: Any, *, of_adapter: bool) -> dict[str, Any]:
    """Gathered by all processes for the first one: all weights, or of an adapter its own alone."""
    model = trainer.model_wrapped
    if of_adapter and trainer.is_fsdp_enabled:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(model, options=options)
    if of_adapter and trainer.is_deepspeed_enabled and model.zero_optimization_partition_weights():
        return dict(model._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {})
    return dict(trainer.accelerator.get_state_dict(model) or {})


def load_whole_from_now_on() -> None:
    """A model that one process loads for itself when the training is done."""
    disable_fsdp_ram_efficient_loading()
    unset_hf_deepspeed_config()


def check_cut(name: Name, model: Any, processes: int) -> None:
    """RunError where the model is not cut as the strategy says, whatever the libraries believe."""
    if processes == 1:
        return
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    if name == "fsdp" and not all(_is_cut_by_fsdp(weight, processes) for weight in weights):
        raise _not_cut("FSDP", "there are parameters that are whole on every process")
    if name == "zero3" and not all(_is_cut_by_zero(weight, processes) for weight in weights):
        raise _not_cut("ZeRO-3", "there are parameters that are whole on every process")
    if name in ("zero1", "zero2"):
        parts = getattr(getattr(model, "optimizer", None), "partition_count", None)
        if not parts or set(parts) != {processes}:
            raise _not_cut(f"ZeRO-{STAGES[name]}", "the optimizer's state is whole on every process")
    if name == "ddp" and not isinstance(model, DistributedDataParallel):
        raise _not_cut("DDP", "the processes do not know of each other")


def _is_cut_by_fsdp(weight: Any, processes: int) -> bool:
    return isinstance(weight, DTensor) and weight.device_mesh.size() == processes and weight.placements[0].is_shard()


def _is_cut_by_zero(weight: Any, processes: int) -> bool:
    return hasattr(weight, "ds_id") and weight.ds_tensor.numel() == -(-weight.ds_numel // processes)


def _not_cut(what: str, problem: str) -> RunError:
    hint = "this version of accelerate is not understood; please report it with the output of pip list"
    return RunError(f"{what} was asked for, but {problem}", hint=hint)
