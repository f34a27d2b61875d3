"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values unpacked from one small vector."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.blocks import MixerPart
from clusterlm.model.config import Config
from clusterlm.model.shape import Attention, Linear


@dataclass(frozen=True)
class LatentAttention:
    """Queries come from a latent too where `q_lora_rank` is set."""

    def build(self, config: Config, layer: int) -> MixerPart:
        heads, latent, rotary = config.heads, config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
        head_size = config.integer("qk_nope_head_dim") + rotary
        value_size = config.integer("v_head_dim")
        attention = Attention(heads, heads, head_size, value_size, latent_size=latent + rotary)
        linears = self._queries(config, heads * head_size) + self._keys_and_values(config)
        return MixerPart(attention, linears, norm_parameters=latent + (config.optional_integer("q_lora_rank") or 0))

    def _queries(self, config: Config, width: int) -> tuple[Linear, ...]:
        latent = config.optional_integer("q_lora_rank")
        if not latent:
            return (Linear("attention.q_proj", config.hidden_size, width),)
        return (
            Linear("attention.q_a_proj", config.hidden_size, latent, config.flag("attention_bias")),
            Linear("attention.q_b_proj", latent, width),
        )

    def _keys_and_values(self, config: Config) -> tuple[Linear, ...]:
        hidden, latent, bias = config.hidden_size, config.integer("kv_lora_rank"), config.flag("attention_bias")
        value_size = config.integer("v_head_dim")
        unpacked = config.heads * (config.integer("qk_nope_head_dim") + value_size)
        return (
            Linear("attention.kv_a_proj_with_mqa", hidden, latent + config.integer("qk_rope_head_dim"), bias),
            Linear("attention.kv_b_proj", latent, unpacked),
            Linear("attention.o_proj", config.heads * value_size, hidden, bias),
        )

    def norms_queries(self, config: Config) -> bool:
        return False
