"""The table of mixtures of experts: one row for each architecture."""

from __future__ import annotations

from dataclasses import replace

from clusterlm.model.blocks import LAYER, Mlp, Norm, Projections, QueryKeyNorm, Window, layer_types
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder, four_norms
from clusterlm.model.latent import LatentAttention
from clusterlm.model.mixture import (
    Mixture,
    SomeLayersSparse,
    after_dense_layers,
    every_sparse_step,
    shared_experts,
    shared_width,
)

GRANITE_MIXTURE = Mixture(router="router", width="intermediate_size")


def llama4_layer_is_sparse(config: Config, layer: int) -> bool:
    listed = config.value("moe_layers")
    if listed is not None:
        return layer in config.items("moe_layers")
    return (layer + 1) % config.integer("interleave_moe_layer_step") == 0


def llama4_kinds(config: Config) -> list[str]:
    """Layers with rotary positions see one chunk, the others everything."""
    interval = config.integer("no_rope_layer_interval")
    rotary = config.items("no_rope_layers") or [(layer + 1) % interval for layer in range(config.layer_count)]
    return layer_types(config) or ["chunked_attention" if has_rope else "full_attention" for has_rope in rotary]


DEEPSEEK_V3 = Decoder(
    LatentAttention(),
    SomeLayersSparse(Mixture(shared_width=shared_experts), after_dense_layers),
    defaults={
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "num_shared_experts": 1,
        "num_dense_layers": 3,
    },
)

EXPERTS: dict[str, Decoder] = {
    "mixtral": Decoder(
        Projections(window=Window()),
        Mixture(width="intermediate_size"),
        defaults={"num_key_value_heads": 8, "num_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": Decoder(
        Projections(
            bias="qkv_bias",
            output_bias=False,
            window=Window(when="use_sliding_window", full_every=2, until_layer="max_window_layers"),
        ),
        SomeLayersSparse(
            Mixture(shared_width=shared_width("shared_expert_intermediate_size"), shared_gate="shared_expert_gate"),
            every_sparse_step,
        ),
        defaults={"qkv_bias": True, "decoder_sparse_step": 1, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "qwen3_moe": Decoder(
        Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(), window=Window(when="use_sliding_window")),
        SomeLayersSparse(Mixture(), every_sparse_step),
        defaults={"decoder_sparse_step": 1, "sliding_window": 4096, "num_key_value_heads": 4},
    ),
    "granitemoe": Decoder(
        Projections(bias="attention_bias"), GRANITE_MIXTURE, defaults={"num_experts": 8, "num_experts_per_tok": 2}
    ),
    "granitemoeshared": Decoder(
        Projections(bias="attention_bias"),
        replace(
            GRANITE_MIXTURE,
            shared_width=shared_width("shared_intermediate_size"),
            shared=Mlp(("input_linear", "output_linear"), part="shared"),
        ),
        defaults={"num_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 0},
    ),
    "olmoe": Decoder(
        Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(whole=True)),
        Mixture(width="intermediate_size"),
        defaults={"num_experts": 64, "num_experts_per_tok": 8},
    ),
    "phimoe": Decoder(
        Projections(bias="attention_bias", window=Window()),
        Mixture(router="router", width="intermediate_size"),
        norm=LAYER,
        head_bias="lm_head_bias",
        defaults={"num_key_value_heads": 8, "num_experts": 16, "num_experts_per_tok": 2},
    ),
    "glm4_moe": Decoder(
        Projections(bias="attention_bias", output_bias=False, query_key_norm=QueryKeyNorm(when="use_qk_norm")),
        SomeLayersSparse(Mixture(shared_width=shared_experts), after_dense_layers),
        defaults={"num_key_value_heads": 8, "num_shared_experts": 1, "num_dense_layers": 1},
    ),
    "deepseek": Decoder(
        Projections(bias="attention_bias"),
        SomeLayersSparse(Mixture(shared_width=shared_experts), after_dense_layers),
        defaults={"num_dense_layers": 0},
    ),
    "kimi_k2": DEEPSEEK_V3,
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v2": replace(
        DEEPSEEK_V3, defaults={**DEEPSEEK_V3.defaults, "num_shared_experts": 2, "num_dense_layers": 0}
    ),
    "llama4_text": Decoder(
        Projections(
            bias="attention_bias",
            # An L2 norm: nothing to learn.
            query_key_norm=QueryKeyNorm(norm=Norm("rms", affine=False), when="use_qk_norm"),
            window=Window(kinds=llama4_kinds),
        ),
        SomeLayersSparse(
            Mixture(router="router", width="intermediate_size", shared_width=shared_width("intermediate_size")),
            llama4_layer_is_sparse,
            dense=Mlp(width=shared_width("intermediate_size_mlp")),
        ),
        defaults={
            "head_dim": 128,
            "num_key_value_heads": 8,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "no_rope_layer_interval": 4,
            "attention_chunk_size": 8192,
            "use_qk_norm": True,
            "vocab_size": 202048,
        },
    ),
    "gpt_oss": Decoder(
        Projections(bias="attention_bias", window=Window(full_every=2), sinks=True),
        Mixture(router="router", router_bias=True, expert_bias=True, width="intermediate_size"),
        defaults={
            "attention_bias": True,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
        },
    ),
    "afmoe": Decoder(
        Projections(
            bias="attention_bias",
            query_key_norm=QueryKeyNorm(),
            window=Window(full_every="global_attn_every_n_layers"),
            gate="gate_proj",
        ),
        SomeLayersSparse(Mixture(shared_width=shared_experts, correction=True), after_dense_layers),
        norms=four_norms,
        defaults={
            "head_dim": 128,
            "num_dense_layers": 1,
            "num_shared_experts": 2,
            "sliding_window": 1024,
            "global_attn_every_n_layers": 4,
        },
    ),
}
