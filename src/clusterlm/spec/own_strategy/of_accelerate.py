"""accelerate's configuration, checked: https://huggingface.co/docs/accelerate/package_reference/cli"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from clusterlm.errors import UsageError, did_you_mean
from clusterlm.spec.own_strategy.keys import keys_of, wrong_keys
from clusterlm.spec.own_strategy.of_deepspeed import GATHER, ZERO, of_deepspeed
from clusterlm.spec.own_strategy.of_fsdp import of_fsdp, problems_of_fsdp
from clusterlm.spec.own_strategy.value import MixedPrecision, OwnStrategy
from clusterlm.spec.own_strategy.words import is_count, truth

DEEPSPEED_FILE = "deepspeed_config_file"
SECTIONS = {"FSDP": "fsdp_config", "DEEPSPEED": "deepspeed_config"}
NOT_DONE = {
    "XLA": "TPUs are not for PyTorch's own processes, which clusterlm starts",
    "MEGATRON_LM": "Megatron-LM has models of its own; FSDP or DEEPSPEED cut those of the hub",
}
MIXED: dict[Any, MixedPrecision] = {"no": "no", "fp16": "fp16", "bf16": "bf16"}
WITH_FILE = (
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero_stage",
    "offload_optimizer_device",
    "offload_optimizer_nvme_path",
    "offload_param_device",
    "offload_param_nvme_path",
    "zero3_save_16bit_model",
)
"""What a file of DeepSpeed says itself. Source: accelerate 1.15, DeepSpeedPlugin._deepspeed_config_checks"""
OF_LAUNCHER = (
    *("machine_rank", "main_process_ip", "main_process_port", "rdzv_backend"),
    *("enable_cpu_affinity", "mpirun_config", "debug"),
    *("deepspeed_hostfile", "deepspeed_exclusion_filter", "deepspeed_inclusion_filter", "deepspeed_multinode_launcher"),
)
LAUNCHED_USUALLY: tuple[Any, ...] = ("", "static", "standard", 0, False, {})
"""What `accelerate config` writes where nothing special is meant."""


def of_accelerate(content: Mapping[str, Any], where: str) -> OwnStrategy:
    if problems := list(_problems(content)):
        raise UsageError("; ".join(problems), where=where)
    kind = _kind(content)
    spread = _spread(kind, content, where)
    mixed = _mixed(content)
    if mixed and spread.mixed_precision and mixed != spread.mixed_precision:
        problem = f"mixed_precision = {mixed!r}, and its deepspeed_config says {spread.mixed_precision!r}"
        raise UsageError(f"{problem}: leave one of them out", where=where)
    processes = content.get("num_processes", 1 if kind == "NO" else None)
    return replace(
        spread,
        processes=None if processes == -1 else processes,
        machines=content.get("num_machines", 1),
        mixed_precision=mixed or spread.mixed_precision,
        on_cpu=truth(content.get("use_cpu", False)) is True or kind == "MULTI_CPU",
        notes=(*_notes(content), *spread.notes),
    )


def _kind(content: Mapping[str, Any]) -> str:
    """YAML reads a plain NO as false."""
    kind = content.get("distributed_type")
    return "NO" if kind is False else str(kind)


def _mixed(content: Mapping[str, Any]) -> MixedPrecision | None:
    given = content.get("mixed_precision", "fp16" if truth(content.get("fp16", False)) else None)
    return None if given is None else MIXED.get("no" if given is False else given)


def _spread(kind: str, content: Mapping[str, Any], where: str) -> OwnStrategy:
    if kind == "FSDP":
        return of_fsdp(content["fsdp_config"], where)
    if kind == "DEEPSPEED":
        return _by_deepspeed(content["deepspeed_config"], where)
    return OwnStrategy(where=where, strategy="single" if kind == "NO" else "ddp")


def _by_deepspeed(section: Mapping[str, Any], where: str) -> OwnStrategy:
    if DEEPSPEED_FILE in section:
        own = of_deepspeed(section[DEEPSPEED_FILE], f"{where}, deepspeed_config.{DEEPSPEED_FILE}")
        own = replace(own, where=where)
    else:
        own = of_deepspeed(_in_deepspeeds_words(section), f"{where}, deepspeed_config")
        own = replace(own, where=where)
    layers = section.get("deepspeed_moe_layer_cls_names")
    return replace(own, environment={"ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES": layers}) if layers else own


def _in_deepspeeds_words(section: Mapping[str, Any]) -> dict[str, Any]:
    """As accelerate's DeepSpeedPlugin makes it."""
    zero: dict[str, Any] = {"stage": section.get("zero_stage", 2)}
    for what in ("optimizer", "param"):
        device = section.get(f"offload_{what}_device", "none")
        if device != "none":
            zero[f"offload_{what}"] = {"device": device}
    if "zero3_save_16bit_model" in section and zero["stage"] == 3:
        is_whole = section["zero3_save_16bit_model"]
        zero[GATHER] = is_whole if truth(is_whole) is None else truth(is_whole)
    both = ("gradient_accumulation_steps", "gradient_clipping")
    return {**{name: section[name] for name in both if name in section}, ZERO: zero}


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    section = content.get("deepspeed_config") or {}
    given = [name for name in OF_LAUNCHER if {**content, **section}.get(name, "") not in LAUNCHED_USUALLY]
    if truth(section.get("zero3_init_flag", True)) is False:
        yield "zero3_init_flag: with stage 3 each process loads only its part of the weights all the same"
    if given:
        yield f"{', '.join(given)}: for `accelerate launch`; clusterlm starts the processes itself"


# ------------------------------------------------------------------------------------------------------ what is wrong


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    if content.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        yield (
            f"compute_environment = {content['compute_environment']!r}: clusterlm works here or on Slurm; LOCAL_MACHINE"
        )
        return
    yield from wrong_keys(content, "accelerate")
    yield from _of_kind(content)
    for name, value in (
        ("num_processes", content.get("num_processes", -1)),
        ("num_machines", content.get("num_machines", 1)),
    ):
        if not is_count(value) and not (name == "num_processes" and value == -1):
            yield f"{name} = {value!r}: is a number of at least 1"
    mixed = content.get("mixed_precision", "no")
    if mixed is not False and str(mixed) not in MIXED:
        yield f"mixed_precision = {mixed!r}: is one of {', '.join(MIXED)}; there is no other here"
    yield from _of_what_is_not_done(content)


def _of_kind(content: Mapping[str, Any]) -> Iterator[str]:
    if "distributed_type" not in content:
        yield "distributed_type: says how the processes share the model, and is missing"
        return
    kind, kinds = _kind(content), keys_of("accelerate.distributed_type")
    if kind in NOT_DONE:
        yield f"distributed_type = {kind!r}: is not done here: {NOT_DONE[kind]}"
    elif kind not in kinds:
        yield f"distributed_type = {kind!r}: there is no such; {did_you_mean(kind, kinds)}"
    for name in SECTIONS.values():
        if not isinstance(content.get(name, {}), dict):
            yield f"{name}: is a section of keys with values"
            return
    for other, name in SECTIONS.items():
        if content.get(name) and kind != other:
            yield f"{name}: belongs to distributed_type {other}, and it is {kind}; leave one of them out"
    if kind in SECTIONS and SECTIONS[kind] not in content:
        yield f"{SECTIONS[kind]}: says how {kind} cuts the model, and is missing"
    elif kind == "FSDP":
        yield from problems_of_fsdp(content["fsdp_config"])
    elif kind == "DEEPSPEED":
        yield from _of_deepspeed_section(content["deepspeed_config"])


def _of_deepspeed_section(section: Mapping[str, Any]) -> Iterator[str]:
    yield from wrong_keys(section, "accelerate.deepspeed_config", "deepspeed_config.")
    if not isinstance(section.get("deepspeed_moe_layer_cls_names", ""), str):
        yield "deepspeed_config.deepspeed_moe_layer_cls_names: names layers, with commas between them"
    if DEEPSPEED_FILE not in section:
        return
    if not isinstance(section[DEEPSPEED_FILE], dict):
        yield f"deepspeed_config.{DEEPSPEED_FILE}: is the name of a file"
    if twice := [name for name in WITH_FILE if name in section]:
        yield f"deepspeed_config: {', '.join(twice)} belong into the {DEEPSPEED_FILE} beside them"


def _of_what_is_not_done(content: Mapping[str, Any]) -> Iterator[str]:
    """What would change the training, and would be ignored."""
    if truth(content.get("downcast_bf16", False)) is not False:
        yield "downcast_bf16: is for TPUs; 'no', or leave it out"
    if str(content.get("gpu_ids", "all")) != "all":
        yield f"gpu_ids = {content['gpu_ids']!r}: is for `accelerate launch`; CUDA_VISIBLE_DEVICES says it here"
    section = content.get("dynamo_config") or {}
    if not isinstance(section, dict):
        yield "dynamo_config: is a section of keys with values"
        return
    compiler = {"dynamo_backend": content.get("dynamo_backend", "no"), **section}
    if str(compiler["dynamo_backend"]).lower() not in ("no", "false"):
        yield f"dynamo_backend = {compiler['dynamo_backend']!r}: models are not compiled here; leave it out"
    for name in ("parallelism_config", "fp8_config", "megatron_lm_config"):
        if content.get(name):
            yield f"{name}: is not done here; leave it out"
