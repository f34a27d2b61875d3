"""The table of dense decoders: one row for each architecture."""

from __future__ import annotations

from dataclasses import replace

from clusterlm.model.blocks import (
    GATED_FUSED_MLP,
    LAYER,
    LAYER_WITHOUT_BIAS,
    Mlp,
    Norm,
    Projections,
    QueryKeyNorm,
    Window,
    four_times_hidden,
    named_or_four_times_hidden,
    one_for_each_head,
)
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder, alibi, four_norms, learned, one_norm
from clusterlm.model.latent import LatentAttention

SLIDING = Window()
QWEN_WINDOW = Window(when="use_sliding_window", from_layer="max_window_layers")
HEAD_NORM = QueryKeyNorm()
OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")
FUSED_NAMES = ("query_key_value", "dense")
GPT_MLP = Mlp(("c_fc", "c_proj"), gated=False, bias=True, width=named_or_four_times_hidden)
FC_MLP = Mlp(("fc1", "fc2"), gated=False, bias=True)
MEGATRON_MLP = Mlp(("dense_h_to_4h", "dense_4h_to_h"), gated=False, bias=True)
UNGATED_MLP = Mlp(("up_proj", "down_proj"), gated=False)


def one_where_multi_query(config: Config) -> int:
    return 1 if config.flag("multi_query") else config.heads


def falcon_kv_heads(config: Config) -> int:
    return config.kv_heads if config.flag("new_decoder_architecture") else one_where_multi_query(config)


def falcon_norms(config: Config) -> int:
    if not config.flag("parallel_attn"):
        return 2
    return config.optional_integer("num_ln_in_parallel_attn") or (2 if config.flag("new_decoder_architecture") else 1)


def falcon_shares_norm(config: Config) -> bool:
    return falcon_norms(config) == 1


def falcon_position(config: Config) -> str:
    return "alibi" if config.flag("alibi") else "rope"


def baichuan_position(config: Config) -> str:
    """The 13B models, of 40 layers, have ALiBi; the 7B ones rotate."""
    return "alibi" if config.layer_count == 40 else "rope"


def stablelm_norms(config: Config) -> int:
    return 1 if config.flag("use_parallel_residual") else 2


def bloom_embedding_norm(config: Config) -> int:
    return 2 * config.hidden_size


def opt_projections(config: Config) -> int:
    """OPT-350m's way into its layers and out of them."""
    token_size = config.optional_integer("word_embed_proj_dim") or config.hidden_size
    return 2 * token_size * config.hidden_size if token_size != config.hidden_size else 0


def gpt_neo_layer_types(config: Config) -> list[str]:
    """`[[["global", "local"], 12]]` written out."""
    kinds = [kind for pattern, times in config.items("attention_types") for _ in range(times) for kind in pattern]
    return ["sliding_attention" if kind == "local" else "full_attention" for kind in kinds]


def half_of_named(config: Config) -> int:
    """Qwen-1 names the width of both widening matrices together."""
    return config.intermediate_size // 2


LLAMA = Decoder(Projections(bias="attention_bias"), Mlp(bias="mlp_bias"))
GEMMA = Decoder(
    Projections(bias="attention_bias"), tied=True, activation="gelu_pytorch_tanh", defaults={"head_dim": 256}
)
GEMMA_2 = replace(
    GEMMA,
    mixer=Projections(bias="attention_bias", window=Window(full_every=2)),
    norms=four_norms,
    defaults={"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 4096},
)
GEMMA_3 = replace(
    GEMMA_2,
    mixer=Projections(
        bias="attention_bias", query_key_norm=HEAD_NORM, window=Window(full_every="sliding_window_pattern")
    ),
    # Gemma 3's published files leave these out of text_config.
    defaults={
        **GEMMA_2.defaults,
        "sliding_window_pattern": 6,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
)
QWEN_2 = Decoder(
    Projections(bias=True, output_bias=False, window=QWEN_WINDOW),
    defaults={"sliding_window": 4096, "max_window_layers": 28},
)
GLM = Decoder(
    Projections(bias="attention_bias", output_bias=False),
    GATED_FUSED_MLP,
    defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 2},
)
OLMO_2 = Decoder(Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(whole=True)))

LLAMA_LIKE: dict[str, Decoder] = {
    "llama": LLAMA,
    "granite": LLAMA,
    "mistral": Decoder(Projections(window=SLIDING), defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": QWEN_2,
    "mimo": QWEN_2,
    "qwen3": Decoder(
        Projections(bias="attention_bias", query_key_norm=HEAD_NORM, window=QWEN_WINDOW),
        defaults={"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "gemma": GEMMA,
    "gemma2": GEMMA_2,
    "gemma3_text": GEMMA_3,
    "phi3": Decoder(Projections(("qkv_proj", "o_proj"), window=SLIDING), GATED_FUSED_MLP),
    "olmo2": OLMO_2,
    "olmo3": replace(
        OLMO_2,
        mixer=Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(whole=True), window=Window(full_every=4)),
        defaults={"sliding_window": 4096},
    ),
    "apertus": Decoder(
        Projections(bias="attention_bias", query_key_norm=HEAD_NORM),
        replace(UNGATED_MLP, other_parameters=2),  # xIELU learns its two slopes
        activation="xielu",
    ),
    "olmo": replace(LLAMA, norm=Norm("layer", affine=False)),
    "smollm3": replace(
        LLAMA,
        mixer=Projections(bias="attention_bias", window=Window(when="use_sliding_window")),
        tied=True,
        defaults={"num_key_value_heads": 4},
    ),
    "ministral3": Decoder(Projections(window=SLIDING), defaults={"num_key_value_heads": 8}),
    "nemotron": Decoder(
        Projections(bias="attention_bias"), replace(UNGATED_MLP, bias="mlp_bias"), norm=LAYER, activation="relu2"
    ),
    "exaone": Decoder(Projections(OUT_PROJ), Mlp(("c_fc_0", "c_fc_1", "c_proj"))),
    "exaone4": Decoder(
        Projections(query_key_norm=HEAD_NORM, window=Window(full_every="sliding_window_pattern")),
        defaults={"sliding_window_pattern": 4},
    ),
    "ernie4_5": Decoder(Projections(bias="use_bias"), Mlp(bias="use_bias"), tied=True, defaults={"head_dim": 128}),
    "internlm": Decoder(Projections(bias="bias"), defaults={"bias": True}),
    "internlm2": Decoder(Projections(("wqkv", "wo"), bias="bias"), Mlp(("w1", "w3", "w2"))),
    "internlm3": Decoder(Projections(bias="qkv_bias", output_bias="bias"), Mlp(bias="bias")),
    "baichuan": Decoder(Projections(("W_pack", "o_proj"), kv_heads=one_for_each_head), position=baichuan_position),
    "minicpm": replace(LLAMA, tied=True),
    "minicpm3": Decoder(LatentAttention(), tied=True, defaults={"v_head_dim": 64}),
    "seed_oss": Decoder(
        Projections(bias="attention_bias", output_bias="attention_out_bias"),
        Mlp(bias="mlp_bias"),
        defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 8},
    ),
    "hunyuan_v1_dense": Decoder(Projections(bias="attention_bias", query_key_norm=HEAD_NORM)),
    "arcee": Decoder(Projections(bias="attention_bias"), replace(UNGATED_MLP, bias="mlp_bias"), activation="relu2"),
    "glm": GLM,
    "glm4": replace(GLM, norms=four_norms),
    "chatglm": Decoder(
        Projections(FUSED_NAMES, bias="add_qkv_bias", output_bias="add_bias_linear"),
        Mlp(("dense_h_to_4h", "dense_4h_to_h"), bias="add_bias_linear"),
        final_norm="post_layer_norm",
        defaults={"post_layer_norm": True},
    ),
    "qwen": Decoder(
        Projections(("c_attn", "c_proj"), bias=True, output_bias="not no_bias", kv_heads=one_for_each_head),
        Mlp(("w1", "w2", "c_proj"), bias="not no_bias", width=half_of_named),
        defaults={"no_bias": True},
    ),
}

GPT_LIKE: dict[str, Decoder] = {
    "gpt2": Decoder(
        Projections(("c_attn", "c_proj"), bias=True, kv_heads=one_for_each_head),
        GPT_MLP,
        norm=LAYER,
        tied=True,
        activation="gelu_new",
        position=learned,
        defaults={"max_position_embeddings": 1024},
    ),
    "gpt_neo": Decoder(
        Projections(
            OUT_PROJ,
            output_bias=True,
            kv_heads=one_for_each_head,
            window=Window("window_size", kinds=gpt_neo_layer_types),
        ),
        GPT_MLP,
        norm=LAYER,
        tied=True,
        activation="gelu_new",
        position=learned,
        defaults={"window_size": 256, "max_position_embeddings": 2048, "attention_types": [[["global", "local"], 12]]},
    ),
    "gpt_neox": Decoder(
        Projections(FUSED_NAMES, bias="attention_bias", kv_heads=one_for_each_head),
        MEGATRON_MLP,
        norm=LAYER,
        activation="gelu",
        defaults={"attention_bias": True},
    ),
    "gptj": Decoder(
        Projections(OUT_PROJ, kv_heads=one_for_each_head),
        replace(GPT_MLP, names=("fc_in", "fc_out")),
        norm=LAYER,
        norms=one_norm,
        activation="gelu_new",
        head_bias=True,
        parallel=True,
        defaults={"max_position_embeddings": 2048},
    ),
    "codegen": Decoder(
        Projections(("qkv_proj", "out_proj"), kv_heads=one_for_each_head),
        replace(GPT_MLP, names=("fc_in", "fc_out")),
        norm=LAYER,
        norms=one_norm,
        activation="gelu_new",
        head_bias=True,
        parallel=True,
        defaults={"max_position_embeddings": 2048},
    ),
    "gpt_bigcode": Decoder(
        Projections(("c_attn", "c_proj"), bias=True, kv_heads=one_where_multi_query),
        GPT_MLP,
        norm=LAYER,
        tied=True,
        activation="gelu_pytorch_tanh",
        position=learned,
        defaults={"multi_query": True, "max_position_embeddings": 1024},
    ),
    "opt": Decoder(
        Projections(OUT_PROJ, bias="enable_bias", kv_heads=one_for_each_head),
        replace(FC_MLP, bias="enable_bias"),
        norm=Norm("layer", bias=True, affine="layer_norm_elementwise_affine"),
        final_norm="do_layer_norm_before",
        tied=True,
        activation="relu",
        position=learned,
        position_offset=2,  # OPTLearnedPositionalEmbedding
        other=opt_projections,
        defaults={"enable_bias": True, "layer_norm_elementwise_affine": True, "do_layer_norm_before": True},
    ),
    "bloom": Decoder(
        Projections(FUSED_NAMES, bias=True, kv_heads=one_for_each_head),
        replace(MEGATRON_MLP, width=four_times_hidden),
        norm=LAYER,
        tied=True,
        activation="gelu_pytorch_tanh",
        position=alibi,
        other=bloom_embedding_norm,
    ),
    "mpt": Decoder(
        Projections(("Wqkv", "out_proj"), kv_heads=one_for_each_head),
        replace(UNGATED_MLP, width=four_times_hidden),
        norm=LAYER_WITHOUT_BIAS,
        tied=True,
        activation="gelu",
        position=alibi,
    ),
    "falcon": Decoder(
        Projections(FUSED_NAMES, bias="bias", kv_heads=falcon_kv_heads, expands_cache="new_decoder_architecture"),
        replace(MEGATRON_MLP, bias="bias", width=named_or_four_times_hidden),
        norm=LAYER,
        norms=falcon_norms,
        tied=True,
        activation="gelu",
        position=falcon_position,
        parallel=falcon_shares_norm,
        defaults={"multi_query": True, "parallel_attn": True, "max_position_embeddings": 2048},
    ),
    "phi": Decoder(
        Projections(
            ("q_proj", "k_proj", "v_proj", "dense"),
            bias=True,
            query_key_norm=QueryKeyNorm(norm=LAYER, when="qk_layernorm"),
        ),
        FC_MLP,
        norm=LAYER,
        norms=one_norm,
        activation="gelu_new",
        head_bias=True,
        parallel=True,
    ),
    "stablelm": Decoder(
        Projections(
            bias="use_qkv_bias", output_bias=False, query_key_norm=QueryKeyNorm(whole=True, when="qk_layernorm")
        ),
        norm=LAYER,
        norms=stablelm_norms,
        parallel="use_parallel_residual",
    ),
    "starcoder2": Decoder(
        Projections(bias="use_bias", window=SLIDING),
        replace(GPT_MLP, bias="use_bias"),
        norm=LAYER,
        tied=True,
        activation="gelu_pytorch_tanh",
        defaults={"use_bias": True, "num_key_value_heads": 2},
    ),
    "cohere2": Decoder(
        Projections(bias="attention_bias", window=Window(full_every="sliding_window_pattern")),
        norm=LAYER_WITHOUT_BIAS,
        norms=one_norm,
        tied=True,
        parallel=True,
        defaults={"head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": 4},
    ),
    "cohere": Decoder(
        Projections(bias="attention_bias", query_key_norm=QueryKeyNorm(whole=True, when="use_qk_norm")),
        norm=LAYER_WITHOUT_BIAS,
        norms=one_norm,
        tied=True,
        parallel=True,
    ),
}

DENSE: dict[str, Decoder] = {**LLAMA_LIKE, **GPT_LIKE}
