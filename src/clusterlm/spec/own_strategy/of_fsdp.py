"""The fsdp_config of accelerate's file, in FSDP 2's words; those of version 1 are translated.

Source: accelerate 1.15, commands/to_fsdp2.py; https://huggingface.co/docs/accelerate/concept_guides/fsdp1_vs_fsdp2
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clusterlm.spec.own_strategy.keys import wrong_keys
from clusterlm.spec.own_strategy.value import OwnStrategy
from clusterlm.spec.own_strategy.words import is_count, truth

SHARDING = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")
"""Of version 1, by name or by number from 1."""
RESHARD = {"FULL_SHARD": True, "SHARD_GRAD_OP": False}
BY_SIZE = "SIZE_BASED_WRAP"
POLICIES = ("TRANSFORMER_BASED_WRAP", "NO_WRAP")
STATES = ("FULL_STATE_DICT", "SHARDED_STATE_DICT", "LOCAL_STATE_DICT")
OF_VERSION_1 = ("fsdp_backward_prefetch", "fsdp_forward_prefetch", "fsdp_sync_module_states", "fsdp_use_orig_params")
TRUTHS = ("offload_params", "cpu_ram_efficient_loading", "activation_checkpointing", "activation_checkpointing_offload")
OF_TRANSFORMERS = {
    "fsdp_offload_params": "cpu_offload",
    "fsdp_cpu_ram_efficient_loading": "cpu_ram_efficient_loading",
    "fsdp_activation_checkpointing": "activation_checkpointing",
    "fsdp_activation_checkpointing_offload": "activation_checkpointing_offload",
    "fsdp_auto_wrap_policy": "auto_wrap_policy",
}
"""What accelerate calls otherwise than transformers' fsdp_config. Source: transformers 5.23, training_args.py"""


def of_fsdp(section: Mapping[str, Any], where: str) -> OwnStrategy:
    sharding = _sharding(section)
    if sharding == "NO_SHARD":
        note = "NO_SHARD cuts nothing: the processes share the work by DDP, without FSDP"
        return OwnStrategy(where=where, strategy="ddp", notes=(note,))
    given = {new: _value(section[old]) for old, new in OF_TRANSFORMERS.items() if old in section}
    if layers := section.get("fsdp_transformer_layer_cls_to_wrap"):
        given["transformer_layer_cls_to_wrap"] = _names(layers)
    offloads = given.get("activation_checkpointing_offload")
    return OwnStrategy(
        where=where,
        strategy="fsdp",
        offload="cpu" if given.get("cpu_offload") else "none",
        gradient_checkpointing=given.get("activation_checkpointing"),
        fsdp={**given, "reshard_after_forward": RESHARD[sharding]},
        # transformers does not hand it on; accelerate looks for it here.
        environment={"FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "true"} if offloads else {},
        notes=tuple(_notes(section, sharding)),
    )


def _version(section: Mapping[str, Any]) -> Any:
    return section.get("fsdp_version", 1)


def _sharding(section: Mapping[str, Any]) -> str:
    """In version 1's words, which have no second meaning."""
    reshard = section.get("fsdp_reshard_after_forward")
    if _version(section) == 2:
        return "SHARD_GRAD_OP" if truth(reshard) is False else "FULL_SHARD"
    said = section.get("fsdp_sharding_strategy", reshard)
    if is_count(said) and said <= len(SHARDING):
        return SHARDING[said - 1]
    return "FULL_SHARD" if said is None else str(said).upper()


def _value(value: Any) -> Any:
    """YAML's people write their booleans as texts too."""
    is_text = isinstance(value, str) and truth(value) is not None
    return truth(value) if is_text else value


def _names(value: Any) -> list[str]:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


def _notes(section: Mapping[str, Any], sharding: str) -> Iterator[str]:
    if _version(section) != 2:
        reshard = str(RESHARD[sharding]).lower()
        yield f"FSDP 2 does what FSDP 1 calls {sharding}: fsdp_reshard_after_forward: {reshard}"
    if section.get("fsdp_min_num_params"):
        yield f"fsdp_min_num_params: is for {BY_SIZE} alone"
    if obsolete := [name for name in OF_VERSION_1 if truth(section.get(name, False)) is not False]:
        yield f"{', '.join(obsolete)}: FSDP 2 has no such setting, and does without"
    state = str(section.get("fsdp_state_dict_type", "SHARDED_STATE_DICT")).upper()
    if state != "SHARDED_STATE_DICT":
        yield f"fsdp_state_dict_type {state}: checkpoints are SHARDED_STATE_DICT all the same; the result is whole"


def problems_of_fsdp(section: Mapping[str, Any]) -> Iterator[str]:
    """`section` is a mapping."""
    yield from wrong_keys(section, "accelerate.fsdp_config", "fsdp_config.")
    version = _version(section)
    if version not in (1, 2):
        yield f"fsdp_config.fsdp_version = {version!r}: is 1 or 2"
        return
    yield from _of_sharding(section)
    for name in TRUTHS:
        if truth(section.get(f"fsdp_{name}", False)) is None:
            yield f"fsdp_config.fsdp_{name} = {section[f'fsdp_{name}']!r}: is true or false"
    for name, known in (("auto_wrap_policy", POLICIES), ("state_dict_type", STATES)):
        value = section.get(f"fsdp_{name}", known[0])
        if value == BY_SIZE:
            # It also cuts the list of the layers, which torch refuses: "does not support containers".
            yield f"fsdp_config.fsdp_{name} = {value!r}: cannot be done with FSDP 2; {POLICIES[0]}"
        elif value not in known:
            yield f"fsdp_config.fsdp_{name} = {value!r}: is one of {', '.join(known)}"
    if not isinstance(section.get("fsdp_transformer_layer_cls_to_wrap", ""), (str, list)):
        yield "fsdp_config.fsdp_transformer_layer_cls_to_wrap: names layers: LlamaDecoderLayer,GPT2Block"
    if _is_on(section, "activation_checkpointing_offload") and not _is_on(section, "activation_checkpointing"):
        yield "fsdp_config.fsdp_activation_checkpointing_offload: needs fsdp_activation_checkpointing: true"


def _is_on(section: Mapping[str, Any], name: str) -> bool:
    return truth(section.get(f"fsdp_{name}", False)) is True


def _of_sharding(section: Mapping[str, Any]) -> Iterator[str]:
    if _version(section) == 2:
        if "fsdp_sharding_strategy" in section:
            yield "fsdp_config.fsdp_sharding_strategy: is of version 1; with 2 fsdp_reshard_after_forward says it"
        if truth(section.get("fsdp_reshard_after_forward", True)) is None:
            yield (
                f"fsdp_config.fsdp_reshard_after_forward = {section['fsdp_reshard_after_forward']!r}:"
                " is true or false with fsdp_version: 2"
            )
        return
    sharding = _sharding(section)
    name = "fsdp_sharding_strategy" if "fsdp_sharding_strategy" in section else "fsdp_reshard_after_forward"
    if sharding.startswith("HYBRID_SHARD"):
        yield f"fsdp_config.{name} = {sharding!r}: copies on each node are not made here; FULL_SHARD or SHARD_GRAD_OP"
    elif sharding not in SHARDING:
        yield f"fsdp_config.{name} = {sharding!r}: is one of {', '.join(SHARDING[:3])} with fsdp_version: 1"
    elif sharding == "NO_SHARD" and _is_on(section, "offload_params"):
        yield f"fsdp_config.fsdp_offload_params: {name} NO_SHARD leaves the weights whole on each GPU; false"
