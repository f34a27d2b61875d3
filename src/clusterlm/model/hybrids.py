"""The table of decoders with recurrent layers: one row for each architecture."""

from __future__ import annotations

from dataclasses import replace

from clusterlm.model.blocks import MixerByKind, MixerRule, Mlp, NoFeedForward, Projections, QueryKeyNorm, layer_types
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder, no_position, one_norm
from clusterlm.model.latent import LatentAttention
from clusterlm.model.mixture import (
    Mixture,
    SomeLayersSparse,
    after_dense_layers,
    every_sparse_step,
    shared_experts,
    shared_width,
)
from clusterlm.model.recurrent import GatedDelta, KimiDelta, Mamba, Mamba2, ShortConvolution

LFM2_ATTENTION = Projections(("q_proj", "k_proj", "v_proj", "out_proj"), query_key_norm=QueryKeyNorm())
LFM2_MLP = Mlp(("w1", "w3", "w2"))
SHARED_LINEARS = ("input_linear", "output_linear")


def three_recurrent_then_one_full(config: Config) -> list[str]:
    """Qwen3-Next's order, where the file does not list its layers."""
    period = config.integer("full_attention_interval")
    kinds = ["linear_attention"] * (period - 1) + ["full_attention"]
    return layer_types(config) or [kinds[layer % period] for layer in range(config.layer_count)]


def lfm2_kinds(config: Config) -> list[str]:
    full = config.items("full_attn_idxs") or range(config.layer_count)
    kinds = ["full_attention" if layer in full else "conv" for layer in range(config.layer_count)]
    return layer_types(config) or kinds


def granite_kinds(config: Config) -> list[str]:
    """Published files say mamba and attention, transformers says linear_attention and full_attention."""
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    kinds = [names.get(kind, kind) for kind in layer_types(config)]
    return kinds or ["mamba"] * config.layer_count


def kimi_kinds(config: Config) -> list[str]:
    """The published file counts its layers from 1."""
    full = config.section("linear_attn_config").items("full_attn_layers")
    is_full = [layer + 1 in full if full else layer > 0 and layer % 4 == 0 for layer in range(config.layer_count)]
    return layer_types(config) or ["full_attention" if full else "linear_attention" for full in is_full]


def bamba_kinds(config: Config) -> list[str]:
    full = config.items("attn_layer_indices")
    return ["attention" if layer in full else "mamba" for layer in range(config.layer_count)]


def jamba_kinds(config: Config) -> list[str]:
    period, offset = config.integer("attn_layer_period"), config.integer("attn_layer_offset")
    return ["attention" if layer % period == offset else "mamba" for layer in range(config.layer_count)]


def jamba_layer_is_sparse(config: Config, layer: int) -> bool:
    period, offset = config.integer("expert_layer_period"), config.integer("expert_layer_offset")
    return config.integer("num_experts") > 1 and layer % period == offset


def granite_position(config: Config) -> str:
    return "rope" if config.text("position_embedding_type") == "rope" else "none"


def kimi_layer_is_sparse(config: Config, layer: int) -> bool:
    kinds = config.items("mlp_layer_types")
    return bool(kinds[layer] == "sparse") if kinds else after_dense_layers(config, layer)


def has_experts(config: Config, layer: int) -> bool:
    return config.integer("num_experts") > 0


def lfm2_width(config: Config) -> int:
    """Two thirds of what the file names, rounded up to a multiple (Lfm2MLP)."""
    width = config.intermediate_size
    if not config.flag("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if config.value("block_ffn_dim_multiplier") is None:
        return width
    multiple = config.integer("block_multiple_of")
    scaled = int(config.number("block_ffn_dim_multiplier") * width)
    return multiple * -(-scaled // multiple)


def qwen_hybrid(fused: bool) -> MixerByKind:
    attention = Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(), query_copies=2)
    rules: dict[str, MixerRule] = {"linear_attention": GatedDelta(fused), "full_attention": attention}
    return MixerByKind(three_recurrent_then_one_full, rules)


QWEN_HYBRID_DEFAULTS = {
    "full_attention_interval": 4,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "decoder_sparse_step": 1,
}
QWEN_MIXTURE = Mixture(shared_width=shared_width("shared_expert_intermediate_size"), shared_gate="shared_expert_gate")

MAMBA = Decoder(
    Mamba(),
    NoFeedForward(),
    norms=one_norm,
    tied=True,
    position=no_position,
    defaults={
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": "auto",
        "use_conv_bias": True,
    },
)

HYBRIDS: dict[str, Decoder] = {
    "qwen3_next": Decoder(
        qwen_hybrid(fused=True),
        SomeLayersSparse(QWEN_MIXTURE, every_sparse_step),
        defaults={**QWEN_HYBRID_DEFAULTS, "num_key_value_heads": 2},
    ),
    "qwen3_5_text": Decoder(
        qwen_hybrid(fused=False), defaults={**QWEN_HYBRID_DEFAULTS, "num_key_value_heads": 4, "vocab_size": 248320}
    ),
    "qwen3_5_moe_text": Decoder(
        qwen_hybrid(fused=False),
        QWEN_MIXTURE,
        defaults={**QWEN_HYBRID_DEFAULTS, "num_key_value_heads": 2, "vocab_size": 248320},
    ),
    "granitemoehybrid": Decoder(
        MixerByKind(granite_kinds, {"mamba": Mamba2(), "attention": Projections(bias="attention_bias")}),
        SomeLayersSparse(
            Mixture(
                router="router",
                width="intermediate_size",
                shared_width=shared_width("shared_intermediate_size"),
                shared=Mlp(SHARED_LINEARS, part="shared"),
            ),
            has_experts,
            dense=Mlp(SHARED_LINEARS, width=shared_width("shared_intermediate_size")),
        ),
        position=granite_position,
        defaults={
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "state_size": 256,
            "conv_kernel": 4,
            "expand": 2,
            "use_conv_bias": True,
        },
    ),
    "lfm2": Decoder(
        MixerByKind(lfm2_kinds, {"full_attention": LFM2_ATTENTION, "conv": ShortConvolution()}),
        replace(LFM2_MLP, width=lfm2_width),
        tied=True,
        defaults={
            "num_key_value_heads": 8,
            "conv_L_cache": 3,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        },
    ),
    "lfm2_moe": Decoder(
        MixerByKind(lfm2_kinds, {"full_attention": LFM2_ATTENTION, "conv": ShortConvolution()}),
        SomeLayersSparse(Mixture(), after_dense_layers, dense=LFM2_MLP),
        tied=True,
        defaults={"num_key_value_heads": 8, "conv_L_cache": 3, "num_dense_layers": 2},
    ),
    "kimi_linear": Decoder(
        MixerByKind(kimi_kinds, {"full_attention": LatentAttention(), "linear_attention": KimiDelta()}),
        SomeLayersSparse(Mixture(shared_width=shared_experts), kimi_layer_is_sparse),
        position=no_position,
        defaults={
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "num_shared_experts": 1,
            "num_dense_layers": 1,
            "linear_head_dim": 128,
            "linear_num_heads": 32,
            "linear_conv_kernel_dim": 4,
        },
    ),
    "mamba": MAMBA,
    "falcon_mamba": MAMBA,
    "mamba2": replace(
        MAMBA,
        mixer=Mamba2(),
        tied=False,
        defaults={
            "mamba_n_heads": 128,
            "mamba_n_groups": 8,
            "state_size": 128,
            "conv_kernel": 4,
            "expand": 2,
            "use_conv_bias": True,
        },
    ),
    "bamba": Decoder(
        MixerByKind(bamba_kinds, {"mamba": Mamba2(), "attention": Projections(bias="attention_bias")}),
        Mlp(bias="mlp_bias"),
        defaults={
            "num_key_value_heads": 8,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "state_size": 256,
            "conv_kernel": 4,
            "expand": 2,
            "use_conv_bias": True,
        },
    ),
    "jamba": Decoder(
        MixerByKind(jamba_kinds, {"mamba": Mamba(norms=True), "attention": Projections()}),
        SomeLayersSparse(Mixture(router="router", width="intermediate_size"), jamba_layer_is_sparse),
        position=no_position,
        defaults={
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "state_size": 16,
            "conv_kernel": 4,
            "expand": 2,
            "time_step_rank": "auto",
            "use_conv_bias": True,
        },
    ),
}
