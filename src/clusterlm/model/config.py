"""config.json of a model, read strictly: one name for each size, the architecture's default where a file is silent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from clusterlm.errors import ModelError

Flag = bool | str
"""A fact that always holds or never, or the key of config.json that says whether it does (absent: no); `not KEY` turns
it round."""

# Families call one size by different names; transformers' `attribute_map` of each configuration class lists them.
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model", "dim"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "d_kv"),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "intermediate_size": ("ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "block_ff_dim", "intermediate_size"),
    "max_position_embeddings": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "model_max_length",
        "seq_length",
        "n_ctx",
    ),
    "hidden_act": ("hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token"),
    "num_dense_layers": ("num_dense_layers", "first_k_dense_replace"),
    "num_shared_experts": ("num_shared_experts", "n_shared_experts"),
    "tie_word_embeddings": ("tie_embedding", "tie_word_embeddings"),
    "layer_types": ("layer_types", "layers_block_type"),
    "word_embed_proj_dim": ("word_embed_proj_dim", "embedding_size"),
    "state_size": ("state_size", "mamba_d_state"),
    "conv_kernel": ("conv_kernel", "mamba_d_conv"),
    "expand": ("expand", "mamba_expand"),
    "time_step_rank": ("time_step_rank", "mamba_dt_rank"),
    "use_bias": ("use_bias", "mamba_proj_bias"),
    "use_conv_bias": ("use_conv_bias", "mamba_conv_bias"),
    "mamba_n_heads": ("mamba_n_heads", "num_heads"),
    "mamba_n_groups": ("mamba_n_groups", "n_groups"),
    "dtype": ("dtype", "torch_dtype"),
}

NEEDED_BY_ALL = ("hidden_size", "vocab_size", "num_hidden_layers")


class Config:
    """The values of one config.json, or of one section of it, under the names of ALIASES."""

    def __init__(self, values: Mapping[str, Any], model: str, defaults: Mapping[str, Any] | None = None) -> None:
        self.values = values
        self.model = model
        self.defaults = defaults or {}
        self._found: dict[str, Any] = {}

    def value(self, key: str) -> Any:
        """The first alias that is set; None where the file says null, or says nothing and there is no default."""
        if key not in self._found:
            self._found[key] = self._look_up(key)
        return self._found[key]

    def _look_up(self, key: str) -> Any:
        present = [self.values[alias] for alias in ALIASES.get(key, (key,)) if alias in self.values]
        if not present:
            return self.defaults.get(key)
        return next((value for value in present if value is not None), None)

    def require(self, *keys: str) -> None:
        missing = [key for key in keys if self.value(key) is None]
        if missing:
            raise self._lacks(*missing)

    def _lacks(self, *keys: str) -> ModelError:
        return self.error(f"config.json lacks {', '.join(keys)}")

    def error(self, problem: str) -> ModelError:
        return ModelError(problem, where=self.model, hint="is it the config.json that was published with the weights?")

    def integer(self, key: str) -> int:
        value = self.optional_integer(key)
        if value is None:
            raise self._lacks(key)
        return value

    def optional_integer(self, key: str) -> int | None:
        value = self.value(key)
        return None if value is None else self._whole_number(key, value)

    def _whole_number(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise self.error(f"config.json has {key} = {value!r}; a whole number is needed")
        return int(value)

    def number(self, key: str) -> float:
        self.require(key)
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"config.json has {key} = {value!r}; a number is needed")
        return float(value)

    def text(self, key: str) -> str | None:
        value = self.value(key)
        return None if value is None else str(value)

    def flag(self, flag: Flag) -> bool:
        if isinstance(flag, bool):
            return flag
        key = flag.removeprefix("not ")
        return bool(self.value(key)) != flag.startswith("not ")

    def items(self, key: str) -> list[Any]:
        """The list under `key`; empty where there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, list | tuple):
            raise self.error(f"config.json has {key} = {value!r}; a list is needed")
        return list(value or ())

    def section(self, key: str, defaults: Mapping[str, Any] | None = None) -> Config:
        """A nested section; empty where the file has none."""
        values = self.value(key)
        if values is not None and not isinstance(values, Mapping):
            raise self.error(f"config.json has {key} = {values!r}; a section is needed")
        return Config(values or {}, self.model, defaults)

    def with_defaults(self, defaults: Mapping[str, Any]) -> Config:
        return Config(self.values, self.model, defaults)

    @cached_property
    def hidden_size(self) -> int:
        return self.integer("hidden_size")

    @cached_property
    def layer_count(self) -> int:
        return self.integer("num_hidden_layers")

    @cached_property
    def heads(self) -> int:
        return self.integer("num_attention_heads")

    @cached_property
    def kv_heads(self) -> int:
        return self.optional_integer("num_key_value_heads") or self.heads

    @cached_property
    def head_size(self) -> int:
        return self.optional_integer("head_dim") or self.hidden_size // self.heads

    @cached_property
    def intermediate_size(self) -> int:
        return self.integer("intermediate_size")
