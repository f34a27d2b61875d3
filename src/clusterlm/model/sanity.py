"""Values that no model can have: said by the names that config.json has for them, before anything is counted."""

from __future__ import annotations

from clusterlm.model.config import ALIASES, NEEDED_BY_ALL, Config

POSITIVE = (
    *NEEDED_BY_ALL,
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts_per_tok",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
)
ONE_FOR_EACH_LAYER = ("layer_types", "mlp_layer_types")


def check_sizes(config: Config) -> None:
    """Raises ModelError where a size is missing or zero, or two of them exclude each other."""
    config.require(*NEEDED_BY_ALL)
    for key in POSITIVE:
        if config.value(key) is not None and config.integer(key) == 0 and written_in(config, key):
            raise config.error(f"config.json has {spelling(config, key)} = 0")
    _check_heads(config)
    _check_experts(config)
    for key in ONE_FOR_EACH_LAYER:
        listed = config.items(key)
        if listed and len(listed) < config.layer_count:
            name, layers = spelling(config, "num_hidden_layers"), config.layer_count
            raise config.error(f"config.json lists {len(listed)} {spelling(config, key)}, but {name} = {layers}")


def _check_heads(config: Config) -> None:
    if config.value("num_attention_heads") is None:
        return
    heads, kv_heads = config.heads, config.kv_heads
    name = spelling(config, "num_attention_heads")
    is_latent = config.value("kv_lora_rank") is not None
    if config.value("head_dim") is None and config.hidden_size % heads and not is_latent:
        width = f"{spelling(config, 'hidden_size')} = {config.hidden_size}"
        raise config.error(f"config.json has {width}, which {name} = {heads} does not divide, and no head_dim")
    if heads % kv_heads and written_in(config, "num_key_value_heads"):
        grouped = f"{spelling(config, 'num_key_value_heads')} = {kv_heads}"
        raise config.error(f"config.json has {name} = {heads}, which {grouped} does not divide")


def _check_experts(config: Config) -> None:
    experts, active = config.optional_integer("num_experts"), config.optional_integer("num_experts_per_tok")
    if experts and active and active > experts and written_in(config, "num_experts_per_tok"):
        asked = f"{spelling(config, 'num_experts_per_tok')} = {active}"
        raise config.error(f"config.json has {asked}, more than {spelling(config, 'num_experts')} = {experts}")


def written_in(config: Config, key: str) -> bool:
    """Whether the file itself says it, under any of its names."""
    return any(config.values.get(alias) is not None for alias in ALIASES.get(key, (key,)))


def spelling(config: Config, key: str) -> str:
    """The name that the file has for it."""
    return next((alias for alias in ALIASES.get(key, (key,)) if config.values.get(alias) is not None), key)
