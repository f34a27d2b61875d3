"""Mixers whose state does not grow with the text: Mamba, gated delta rule, short convolution.

State sizes are those of transformers' cache: the recurrent state, and the last inputs of the convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from clusterlm.model.blocks import MixerPart
from clusterlm.model.config import Config, Flag
from clusterlm.model.shape import Linear, Recurrent


class RecurrentRule:
    """Recurrent mixers have no queries to norm."""

    def norms_queries(self, config: Config) -> bool:
        return False


@dataclass(frozen=True)
class Mamba(RecurrentRule):
    """Selective state space (arXiv:2312.00752); `norms`: Jamba norms the time step and both projections."""

    norms: bool = False

    def build(self, config: Config, layer: int) -> MixerPart:
        hidden, state, kernel = config.hidden_size, config.integer("state_size"), config.integer("conv_kernel")
        inner = int(config.number("expand") * hidden)
        rank = self._time_step_rank(config)
        bias = config.flag("use_bias")
        linears = (
            Linear("attention.in_proj", hidden, 2 * inner, bias),
            Linear("attention.x_proj", inner, rank + 2 * state),
            Linear("attention.dt_proj", rank, inner, bias=True),
            Linear("attention.out_proj", inner, hidden, bias),
        )
        convolution = inner * kernel + (inner if config.flag("use_conv_bias") else 0)
        decay_and_skip = inner * state + inner
        mixer = Recurrent("mamba", inner * state + inner * kernel)
        return MixerPart(mixer, linears, rank + 2 * state if self.norms else 0, convolution + decay_and_skip)

    def _time_step_rank(self, config: Config) -> int:
        if config.value("time_step_rank") == "auto":
            return math.ceil(config.hidden_size / 16)  # MambaConfig
        return config.integer("time_step_rank")


@dataclass(frozen=True)
class Mamba2(RecurrentRule):
    """State space with one decay for each head (arXiv:2405.21060)."""

    def build(self, config: Config, layer: int) -> MixerPart:
        hidden, state, kernel = config.hidden_size, config.integer("state_size"), config.integer("conv_kernel")
        heads = config.integer("mamba_n_heads")
        inner = int(config.number("expand") * hidden)
        channels = inner + 2 * config.integer("mamba_n_groups") * state
        bias = config.flag("use_bias")
        linears = (
            Linear("attention.in_proj", hidden, inner + channels + heads, bias),
            Linear("attention.out_proj", inner, hidden, bias),
        )
        convolution = channels * kernel + (channels if config.flag("use_conv_bias") else 0)
        time_step_decay_and_skip = 3 * heads
        mixer = Recurrent("mamba2", inner * state + channels * kernel)
        return MixerPart(mixer, linears, inner, convolution + time_step_decay_and_skip)


@dataclass(frozen=True)
class GatedDelta(RecurrentRule):
    """Gated delta rule (arXiv:2412.06464); `fused`: inputs as qkvz and ba instead of qkv, z, b and a."""

    fused: bool

    def build(self, config: Config, layer: int) -> MixerPart:
        key_size, value_size = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
        value_heads, kernel = config.integer("linear_num_value_heads"), config.integer("linear_conv_kernel_dim")
        values = value_heads * value_size
        channels = 2 * config.integer("linear_num_key_heads") * key_size + values
        linears = (
            *self._inputs(config.hidden_size, channels, values, value_heads),
            Linear("attention.out_proj", values, config.hidden_size),
        )
        time_step_and_decay = 2 * value_heads
        mixer = Recurrent("gated_delta", value_heads * key_size * value_size + channels * kernel)
        return MixerPart(mixer, linears, value_size, channels * kernel + time_step_and_decay)

    def _inputs(self, hidden: int, channels: int, values: int, heads: int) -> list[Linear]:
        widths = {"qkv": channels, "z": values, "b": heads, "a": heads}
        if self.fused:
            widths = {"qkvz": channels + values, "ba": 2 * heads}
        return [Linear(f"attention.in_proj_{name}", hidden, width) for name, width in widths.items()]


@dataclass(frozen=True)
class ShortConvolution(RecurrentRule):
    """LFM2's gated convolution over the last few tokens."""

    bias: Flag = "conv_bias"

    def build(self, config: Config, layer: int) -> MixerPart:
        hidden, kernel, bias = config.hidden_size, config.integer("conv_L_cache"), config.flag(self.bias)
        linears = (
            Linear("attention.in_proj", hidden, 3 * hidden, bias),
            Linear("attention.out_proj", hidden, hidden, bias),
        )
        convolution = hidden * kernel + (hidden if bias else 0)
        return MixerPart(Recurrent("short_convolution", hidden * kernel), linears, other_parameters=convolution)


@dataclass(frozen=True)
class KimiDelta(RecurrentRule):
    """Delta rule with a decay for each channel (Kimi Linear, arXiv:2510.26692)."""

    def build(self, config: Config, layer: int) -> MixerPart:
        published = config.section("linear_attn_config", config.defaults)
        heads = published.integer("num_heads" if published.values else "linear_num_heads")
        size = published.integer("head_dim" if published.values else "linear_head_dim")
        kernel = published.integer("short_conv_kernel_size" if published.values else "linear_conv_kernel_dim")
        hidden, inner = config.hidden_size, heads * size
        linears = (
            *(Linear(f"attention.{name}", hidden, inner) for name in ("q_proj", "k_proj", "v_proj")),
            Linear("attention.f_a_proj", hidden, size),
            Linear("attention.f_b_proj", size, inner),
            Linear("attention.b_proj", hidden, heads),
            Linear("attention.g_a_proj", hidden, size),
            Linear("attention.g_b_proj", size, inner),
            Linear("attention.o_proj", inner, hidden),
        )
        convolution = 3 * inner * kernel
        time_step_and_decay = inner + heads
        mixer = Recurrent("kimi_delta", heads * size * size + 3 * inner * kernel)
        return MixerPart(mixer, linears, size, convolution + time_step_and_decay)
