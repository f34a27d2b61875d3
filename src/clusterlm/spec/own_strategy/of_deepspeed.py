"""DeepSpeed's configuration, checked: https://www.deepspeed.ai/docs/config-json"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clusterlm.errors import UsageError
from clusterlm.spec.own_strategy.keys import keys_of, wrong_keys
from clusterlm.spec.own_strategy.value import AUTO, MixedPrecision, OwnStrategy
from clusterlm.spec.own_strategy.words import is_count

STRATEGIES: tuple[Any, ...] = ("ddp", "zero1", "zero2", "zero3")
"""By stage."""
FILLED_IN = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
"""Where the trainer knows what "auto" is, beside the batch, clipping and the types. Source: transformers 5.23,
integrations/deepspeed.py; the last two with stage 3 alone.
"""
OWN_AUTO = ("optimizer", "scheduler", "data_types")
"""Sections in which "auto" has a meaning of its own."""
BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
SAID_BY_FLAGS = (*BATCH, "gradient_clipping", "optimizer", "scheduler")
HALVES = ("bf16", "fp16")
ZERO = "zero_optimization"
PLACES = ("none", "cpu")
GATHER = "stage3_gather_16bit_weights_on_model_save"
ELSEWHERE = {
    "autotuning": "tries settings out by itself; clusterlm plan says which fit",
    "data_efficiency": "chooses the data; --eval-fraction, --sequence-length and --packing say what is learned",
    "hybrid_engine": "generates while it trains, which nothing here does",
    "pipeline": "cuts a model into stages, which nothing here does; zero3 cuts its weights",
    "tensor_parallel": "cuts each layer, which nothing here does; zero3 cuts the weights",
    "expert_parallel": "deals experts out, which nothing here does; zero3 cuts their weights",
    "torch_autocast": "is a way to compute in 16 bits beside the trainer's; say it with bf16 or fp16",
    "weight_quantization": "is for models that are not trained; --method qlora quantises",
}
"""Sections that are refused where they are in use."""


def of_deepspeed(content: Mapping[str, Any], where: str) -> OwnStrategy:
    if problems := list(_problems(content)):
        raise UsageError("; ".join(problems), where=where)
    zero = {_by_its_name(name): value for name, value in content[ZERO].items()}
    strategy = STRATEGIES[zero["stage"]]
    given = {name: value for name, value in content.items() if name not in (*SAID_BY_FLAGS, "bfloat16")}
    is_used = strategy != "ddp"
    return OwnStrategy(
        where=where,
        strategy=strategy,
        offload=_offload(zero),
        mixed_precision=_mixed_precision(_halves(content)),
        deepspeed={**given, **_halves(content), ZERO: zero} if is_used else {},
        said_by_flags={name: content[name] for name in SAID_BY_FLAGS if content.get(name, AUTO) != AUTO},
        notes=() if is_used else ("stage 0 cuts nothing: the processes share the work by DDP, without DeepSpeed",),
    )


def _by_its_name(name: str) -> str:
    """DeepSpeed takes a few with and without what they begin with."""
    long = f"stage3_{name}"
    return long if long in keys_of(f"deepspeed.{ZERO}") else name


def _halves(content: Mapping[str, Any]) -> dict[str, Any]:
    """bf16 has an older name."""
    sections = {"bf16": content.get("bf16", content.get("bfloat16")), "fp16": content.get("fp16")}
    return {name: section for name, section in sections.items() if section is not None}


def _mixed_precision(halves: Mapping[str, Any]) -> MixedPrecision | None:
    said = {name: section.get("enabled", False) for name, section in halves.items()}
    if said.get("bf16") is True:
        return "bf16"
    if said.get("fp16") is True:
        return "fp16"
    return "no" if said and AUTO not in said.values() else None


def _offload(zero: Mapping[str, Any]) -> Any:
    """A plan has no word for weights that leave the GPU without the optimizer's state: it counts them there."""
    away = {name for name in ("optimizer", "param") if _place(zero, f"offload_{name}") == "cpu"}
    return "none" if "optimizer" not in away else "cpu" if "param" in away else "optimizer-cpu"


def _place(zero: Mapping[str, Any], name: str) -> str:
    return str(zero.get(name, {}).get("device", "none"))


# ------------------------------------------------------------------------------------------------------ what is wrong


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    yield from wrong_keys(content, "deepspeed")
    for path in _autos({name: value for name, value in content.items() if name not in OWN_AUTO}):
        yield f'{path} = "auto": nothing fills it in; a value, or leave it out'
    yield from _of_sections(content)
    yield from _of_precision(content)
    for name in BATCH:
        if content.get(name, AUTO) != AUTO and not is_count(content[name]):
            yield f'{name} = {content[name]!r}: is a number of at least 1, or "auto"'
    clipping = content.get("gradient_clipping", AUTO)
    if clipping != AUTO and (isinstance(clipping, bool) or not isinstance(clipping, (int, float))):
        yield f'gradient_clipping = {clipping!r}: is a number, or "auto"'
    for name in ("optimizer", "scheduler"):
        if name in content and not (isinstance(content[name], dict) and isinstance(content[name].get("type"), str)):
            yield f"{name}: is a section with a type"
    if isinstance(content.get(ZERO), dict):
        yield from _of_zero(content[ZERO], content)
    else:
        yield f"{ZERO}: says by its stage (0 to 3) what is cut, and is missing"


def _autos(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys that nobody knows a value of."""
    known = (*BATCH, "gradient_clipping", *(f"{name}.enabled" for name in (*HALVES, "bfloat16")))
    known += tuple(f"{ZERO}.{name}" for name in FILLED_IN)
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{path}{name}.")
        elif value == AUTO and path + name not in known:
            yield path + name


def _of_sections(content: Mapping[str, Any]) -> Iterator[str]:
    for name, why in ELSEWHERE.items():
        section = content.get(name)
        if section and (not isinstance(section, dict) or section.get("enabled", True)):
            yield f"{name}: {why}"
    if content.get("sequence_parallel_size", 1) != 1:
        yield "sequence_parallel_size: sequences are not cut here; leave it out"
    if content.get("zero_force_ds_cpu_optimizer"):
        yield "zero_force_ds_cpu_optimizer: the optimizer is torch's (--optimizer), which needs no compiler; false"
    if isinstance(content.get("checkpoint"), dict) and content["checkpoint"].get("load_universal"):
        yield "checkpoint.load_universal: a run goes on from its own checkpoints, with other processes too; false"


def _of_precision(content: Mapping[str, Any]) -> Iterator[str]:
    if "bf16" in content and "bfloat16" in content:
        yield "bf16 and bfloat16 are the same: leave one of them out"
    halves = _halves(content)
    enabled = []
    for name, section in halves.items():
        if not isinstance(section, dict):
            yield f'{name}: is a section: {{"enabled": true}}'
            continue
        yield from wrong_keys(section, f"deepspeed.{name}", f"{name}.")
        enabled += [name] if section.get("enabled") is True else []
    if enabled == ["bf16", "fp16"]:
        yield "bf16.enabled and fp16.enabled: both are true, and only one can be"


def _of_zero(zero: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    yield from wrong_keys({_by_its_name(name): value for name, value in zero.items()}, f"deepspeed.{ZERO}", f"{ZERO}.")
    stage = zero.get("stage")
    if type(stage) is not int or stage not in range(len(STRATEGIES)):
        yield f"{ZERO}.stage = {stage!r}: is 0, 1, 2 or 3"
        return
    for name in FILLED_IN[1:]:
        if zero.get(name) == AUTO and stage < 3:
            yield f'{ZERO}.{name} = "auto": belongs to stage 3; leave it out'
    for name in ("offload_optimizer", "offload_param"):
        yield from _of_offload(zero.get(name, {}), name)
    if content.get("prescale_gradients") and stage in (1, 2) and zero.get("reduce_scatter", True):
        yield f"prescale_gradients: stage {stage} cannot do both, it and {ZERO}.reduce_scatter; one of them false"
    if zero.get("offload_param") and stage < 3:
        yield f"{ZERO}.offload_param: stage {stage} leaves the weights whole; it belongs to stage 3"
    if zero.get("offload_optimizer") and stage < 1:
        yield f"{ZERO}.offload_optimizer: stage 0 leaves the optimizer's state whole; it belongs to stages 1 to 3"
    if stage == 3 and zero.get(GATHER, zero.get(GATHER.removeprefix("stage3_"))) is False:
        yield f"{ZERO}.{GATHER} = false: the model that comes out is written whole; true, or leave it out"


def _of_offload(section: Any, name: str) -> Iterator[str]:
    if not isinstance(section, dict):
        yield f'{ZERO}.{name}: is a section: {{"device": "cpu"}}'
        return
    yield from wrong_keys(section, f"deepspeed.{ZERO}.{name}", f"{ZERO}.{name}.")
    device = section.get("device", "none")
    if device == "nvme":
        yield f"{ZERO}.{name}.device = 'nvme': nothing is put on disks here; 'cpu' puts it into host memory"
    elif device not in PLACES:
        yield f"{ZERO}.{name}.device = {device!r}: is {' or '.join(map(repr, PLACES))}"
