"""What a user's own file says beside our flags: equal, or open in one of both; else both are named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from clusterlm.errors import UsageError
from clusterlm.spec.files import make_spec
from clusterlm.spec.own_strategy.read import OF_SETTING, content_of, own_strategy
from clusterlm.spec.own_strategy.value import AUTO, OwnStrategy
from clusterlm.spec.train import TrainSpec

OPTIMIZERS = {"adam": ("adamw", "adamw-fused"), "adamw": ("adamw", "adamw-fused"), "sgd": ("sgd",)}
"""DeepSpeed's types, lower case, that ours are the same as: its Adam decays weights as AdamW unless told otherwise."""
SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
"""Source: https://huggingface.co/docs/transformers/deepspeed, Optimizer and scheduler"""
USUAL_ADAM = {"betas": [0.9, 0.999], "eps": 1e-8, "adam_w_mode": True, "bias_correction": True, "torch_adam": True}
"""torch's, which the trainer takes."""


def settled(spec: TrainSpec, *, as_job: bool = False, nodes: int | None = None) -> tuple[TrainSpec, tuple[str, ...]]:
    """The spec with the content of its file in the place of the file's name, and what it says as our settings.

    With notes for the user. Without a file, the spec as it is. UsageError and InputError for all that is wrong with it.
    """
    own = own_strategy(spec)
    if own is None:
        return spec, ()
    problems = list(_problems(own, spec, as_job=as_job, nodes=nodes))
    if problems:
        raise UsageError("; ".join(problems), where=own.where)
    contents: dict[str, Any] = {
        name: content_of(name, given) for name in OF_SETTING if (given := getattr(spec, name)) is not None
    }
    changes = {**_settings(own, spec), **contents}
    notes = (*own.notes, *_notes(own, spec), *(_notes_of_plan(own) if as_job else ()))
    return make_spec(TrainSpec, {**spec.model_dump(exclude_unset=True), **changes}, own.where), notes


def _settings(own: OwnStrategy, spec: TrainSpec) -> dict[str, Any]:
    """Those that are open, as the file has them."""
    found: dict[str, Any] = {"strategy": own.strategy, "offload": own.offload}
    if gpus := _processes(own, spec):
        found["gpus"] = gpus
    if rows := _rows(own, spec, gpus):
        found["micro_batch"] = rows
    if own.gradient_checkpointing is not None:
        found["gradient_checkpointing"] = own.gradient_checkpointing
    if own.mixed_precision == "no" and spec.dtype == "auto":
        found["dtype"] = "float32"
    return found


def _notes(own: OwnStrategy, spec: TrainSpec) -> Iterator[str]:
    if "optimizer" in own.said_by_flags:
        yield f"the optimizer is torch's: --optimizer {spec.optimizer}"
    if "scheduler" in own.said_by_flags:
        yield f"the learning rate is the trainer's: --schedule {spec.schedule}, --warm-up {spec.warm_up:g}"


def _notes_of_plan(own: OwnStrategy) -> Iterator[str]:
    if own.offload == "none" and own.deepspeed.get("zero_optimization", {}).get("offload_param"):
        yield "the plan counts the weights as if they stayed on the GPU"
    if own.fsdp.get("reshard_after_forward") is False:
        yield "each GPU holds all weights between forward and backward pass, which the plan does not count"


def _problems(own: OwnStrategy, spec: TrainSpec, *, as_job: bool, nodes: int | None) -> Iterator[str]:
    yield from _of_strategy(own, spec)
    yield from _of_processes(own, spec, as_job=as_job, nodes=nodes)
    yield from _of_precision(own, spec)
    yield from _of_batch(own, spec)
    clipping = own.said_by_flags.get("gradient_clipping", spec.max_grad_norm)
    if clipping != spec.max_grad_norm:
        yield f"gradient_clipping is {clipping:g}, and --max-grad-norm {spec.max_grad_norm:g}: {_the_same(clipping)}"
    yield from _of_optimizer(own.said_by_flags.get("optimizer"), spec)
    yield from _of_scheduler(own.said_by_flags.get("scheduler"), spec)


def _the_same(value: object) -> str:
    return f'both the same, or "auto" instead of {value}'


# ------------------------------------------------------------------------------------------------- who cuts, how many


def _of_strategy(own: OwnStrategy, spec: TrainSpec) -> Iterator[str]:
    if spec.strategy not in ("auto", own.strategy):
        yield f"asks for {own.strategy}, and --strategy is {spec.strategy}: leave one of them out"
    if "offload" in spec.model_fields_set and spec.offload != own.offload:
        yield f"asks for offload {own.offload}, and --offload is {spec.offload}: leave one of them out"
    if spec.method == "qlora" and own.fsdp.get("cpu_ram_efficient_loading"):
        yield "fsdp_cpu_ram_efficient_loading: weights of 4 bits would lose their scales; false, or leave it out"
    wanted = own.gradient_checkpointing
    if wanted is not None and spec.gradient_checkpointing not in (None, wanted):
        flag = "--gradient-checkpointing" if spec.gradient_checkpointing else "--no-gradient-checkpointing"
        yield f"fsdp_activation_checkpointing is {str(wanted).lower()}, and there is {flag}: leave one of them out"


def _of_processes(own: OwnStrategy, spec: TrainSpec, *, as_job: bool, nodes: int | None) -> Iterator[str]:
    if own.processes and spec.gpus not in (None, own.processes):
        yield f"num_processes is {own.processes}, and --gpus {spec.gpus}: both the same, or leave one of them out"
        return
    gpus = _processes(own, spec)
    if own.strategy == "single":
        if gpus not in (None, 1):
            yield f"distributed_type NO is one process, and there are {gpus}: MULTI_GPU, FSDP or DEEPSPEED"
    elif gpus == 1 or (gpus is None and not as_job):
        which = f"--gpus {spec.gpus}" if spec.gpus else "num_processes 1" if own.processes else "there is one"
        yield (
            f"asks for {own.strategy}, which several processes do together, and {which}:"
            " --gpus 2 or more, or train without the file"
        )
    if own.on_cpu and as_job:
        yield "asks for CPUs, and jobs are done on GPUs: MULTI_GPU, and leave use_cpu out"
    if own.machines > 1 and as_job and nodes is None:
        yield f"num_machines is {own.machines}: say --nodes {own.machines} too, or leave it out, and the plan decides"
    elif own.machines > 1 and not as_job:
        yield f"num_machines is {own.machines}, and this is one: several are jobs, --on CLUSTER"
    elif own.machines > 1 and nodes not in (None, own.machines):
        yield f"num_machines is {own.machines}, and --nodes {nodes}: both the same, or leave one of them out"


def _processes(own: OwnStrategy, spec: TrainSpec) -> int | None:
    """None where neither says it, nor sizes of batches leave one possibility."""
    known = spec.gpus or own.processes
    rows, steps = _number(own, "train_micro_batch_size_per_gpu") or spec.micro_batch, _accumulation(own)
    if known or not rows or not steps or spec.global_batch_size % (rows * steps):
        return known
    return spec.global_batch_size // (rows * steps)


# ------------------------------------------------------------------------------------------------------------ batches


def _number(own: OwnStrategy, name: str) -> int | None:
    return own.said_by_flags.get(name)


def _accumulation(own: OwnStrategy) -> int | None:
    return _number(own, "gradient_accumulation_steps")


def _rows(own: OwnStrategy, spec: TrainSpec, gpus: int | None) -> int | None:
    """Sequences at once on one device, where it is said."""
    said = spec.micro_batch or _number(own, "train_micro_batch_size_per_gpu")
    steps = _accumulation(own)
    return said or (spec.global_batch_size // (gpus * steps) if gpus and steps else None)


def _of_batch(own: OwnStrategy, spec: TrainSpec) -> Iterator[str]:
    whole, batch = _number(own, "train_batch_size"), spec.global_batch_size
    if whole not in (None, batch):
        yield f"train_batch_size is {whole}, and --global-batch-size {batch}: {_the_same(whole)}"
        return
    rows = _number(own, "train_micro_batch_size_per_gpu")
    if None not in (rows, spec.micro_batch) and rows != spec.micro_batch:
        yield f"train_micro_batch_size_per_gpu is {rows}, and --micro-batch {spec.micro_batch}: {_the_same(rows)}"
        return
    rows, steps, gpus = rows or spec.micro_batch, _accumulation(own), _processes(own, spec)
    if not steps:
        return
    if rows and steps * rows * (gpus or 0) != batch:
        many = f"x {gpus} processes are {steps * rows * gpus}" if gpus else f"are {steps * rows} of each process"
        sizes = f"gradient_accumulation_steps {steps} x {rows} at once {many}"
        yield f"{sizes}, and --global-batch-size is {batch}: {_the_same(steps)}"
    elif not rows and not gpus:
        yield f'gradient_accumulation_steps is {steps}: says nothing without --gpus; or "auto" instead'
    elif not rows and gpus and batch % (steps * gpus):
        yield (
            f"gradient_accumulation_steps {steps} x {gpus} processes do not divide --global-batch-size {batch}:"
            f' a multiple of {steps * gpus}, or "auto" instead of {steps}'
        )


# ----------------------------------------------------------------------------------------------- what the trainer does


def _of_precision(own: OwnStrategy, spec: TrainSpec) -> Iterator[str]:
    """--dtype is the type of the weights; with auto the file says in which type is computed."""
    said, dtype = own.mixed_precision, spec.dtype
    if said is None or dtype == "auto":
        return
    if said == "no":
        # Without DeepSpeed's copies in float32, weights of 16 bits are trained as they are.
        if dtype != "float32" and (own.deepspeed or spec.method != "full"):
            yield f"computes in float32, and --dtype is {dtype}: leave one of them out"
        return
    same = {"bf16": "bfloat16", "fp16": "float16"}[said]
    keeps_float32 = bool(own.deepspeed) or spec.method != "full"
    if dtype != same or not keeps_float32:
        yield f"computes in {said}, and --dtype is {dtype}: --dtype auto keeps weights in float32 beside {said}"


def _of_optimizer(section: Mapping[str, Any] | None, spec: TrainSpec) -> Iterator[str]:
    if section is None:
        return
    kind, given = section["type"], section.get("params", {})
    same = OPTIMIZERS.get(kind.lower(), ())
    if spec.optimizer not in same:
        flag = f"--optimizer {same[0]} is the same" if same else "--optimizer says which there are"
        yield f"optimizer.type is {kind!r}, and --optimizer {spec.optimizer}: {flag}; leave the section out"
    expected = {**USUAL_ADAM, "lr": spec.rate, "weight_decay": spec.weight_decay}
    flags = {"lr": "--learning-rate", "weight_decay": "--weight-decay"}
    yield from _parameters("optimizer", given, expected, flags)


def _of_scheduler(section: Mapping[str, Any] | None, spec: TrainSpec) -> Iterator[str]:
    if section is None:
        return
    kind, given = section["type"], section.get("params", {})
    if SCHEDULES.get(kind) != spec.schedule:
        same = SCHEDULES.get(kind)
        flag = f"--schedule {same} is the same" if same else "--schedule says which there are"
        yield f"scheduler.type is {kind!r}, and --schedule {spec.schedule}: {flag}; leave the section out"
    steps = spec.max_steps
    rising = math.ceil(spec.warm_up * steps) if steps else 0 if not spec.warm_up else None
    expected: dict[str, Any] = {"warmup_min_lr": 0, "warmup_max_lr": spec.rate, "warmup_type": "linear"}
    expected |= {"total_num_steps": steps, "warmup_num_steps": rising}
    flags = {"warmup_max_lr": "--learning-rate", "total_num_steps": "--max-steps", "warmup_num_steps": "--warm-up"}
    yield from _parameters("scheduler", given, expected, flags)


def _parameters(section: str, given: Any, expected: Mapping[str, Any], flags: Mapping[str, str]) -> Iterator[str]:
    if not isinstance(given, dict):
        yield f"{section}.params: is a section of keys with values"
        return
    for name, value in given.items():
        if value == AUTO:
            continue
        if name not in expected:
            yield f"{section}.params.{name}: has no flag here; leave it out"
        elif value != expected[name]:
            here = "is reckoned from the data" if expected[name] is None else f"is {expected[name]} here"
            flag = f"{flags[name]} says it" if name in flags else "it cannot be changed"
            yield f'{section}.params.{name} is {value}, and {here}: {flag}; "auto" instead'
