"""The table of encoders, which embeddings are made with: one row for each architecture, without pre-training heads."""

from __future__ import annotations

from dataclasses import replace

from clusterlm.model.blocks import LAYER, LAYER_WITHOUT_BIAS, Mlp, Projections, Window, one_for_each_head
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder, learned
from clusterlm.model.dense import LLAMA

BERT_ATTENTION = Projections(
    ("self.query", "self.key", "self.value", "output.dense"), bias=True, kv_heads=one_for_each_head
)
BERT_MLP = Mlp(("intermediate.dense", "output.dense"), gated=False, bias=True)


def token_width(config: Config) -> int:
    return config.optional_integer("word_embed_proj_dim") or config.hidden_size


def types_and_norm(config: Config) -> int:
    """Token types, and the norm of the sum of all embeddings."""
    types = config.optional_integer("type_vocab_size") or 0
    return (types + 2) * token_width(config)


def with_pooler(config: Config) -> int:
    return types_and_norm(config) + config.hidden_size**2 + config.hidden_size


def mpnet_other(config: Config) -> int:
    return with_pooler(config) + config.integer("relative_attention_num_buckets") * config.heads


def electra_other(config: Config) -> int:
    narrow, wide = token_width(config), config.hidden_size
    return types_and_norm(config) + (narrow * wide + wide if narrow != wide else 0)


def deberta_position(config: Config) -> str:
    return "learned" if config.flag("position_biased_input") else "none"


def deberta_other(config: Config) -> int:
    """Relative positions (arXiv:2006.03654) that share the projections of queries and keys, as all of version 3 do."""
    if token_width(config) != config.hidden_size:
        raise config.error("config.json has an embedding_size of its own, which clusterlm does not count")
    hidden, other = config.hidden_size, types_and_norm(config)
    if config.flag("relative_attention"):
        if not config.flag("share_att_key"):
            raise config.error("config.json has share_att_key = false, which clusterlm does not count")
        other += 2 * (config.optional_integer("position_buckets") or config.integer("max_position_embeddings")) * hidden
        other += 2 * hidden if "layer_norm" in (config.text("norm_rel_ebd") or "") else 0
    kernel = config.optional_integer("conv_kernel_size")
    return other + (kernel * hidden**2 + 3 * hidden if kernel else 0)


def modernbert_kinds(config: Config) -> list[str]:
    period = config.integer("global_attn_every_n_layers")
    return config.items("layer_types") or [
        "sliding_attention" if layer % period else "full_attention" for layer in range(config.layer_count)
    ]


def up_to_padding(config: Config) -> int:
    """RoBERTa's first token has the position after the padding token's (create_position_ids_from_input_ids)."""
    padding = config.optional_integer("pad_token_id")
    return 2 if padding is None else padding + 1


def mpnet_up_to_padding(config: Config) -> int:
    """MPNet's class has 1 for padding, whatever config.json says."""
    return 2


def nomic_other(config: Config) -> int:
    if config.value("moe_every_n_layers"):
        raise config.error("config.json has experts in an encoder, which clusterlm does not count")
    return types_and_norm(config)


BERT = Decoder(
    BERT_ATTENTION,
    BERT_MLP,
    norm=LAYER,
    final_norm=False,
    has_head=False,
    activation="gelu",
    position=learned,
    other=with_pooler,
    defaults={"type_vocab_size": 2},
)

ROBERTA = replace(BERT, unused_positions=up_to_padding)

ENCODERS: dict[str, Decoder] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": replace(
        BERT,
        mixer=replace(BERT_ATTENTION, names=("q_lin", "k_lin", "v_lin", "out_lin")),
        feed_forward=replace(BERT_MLP, names=("lin1", "lin2"), width=lambda config: config.integer("hidden_dim")),
        other=types_and_norm,
        defaults={"hidden_dim": 3072, "max_position_embeddings": 512},
    ),
    "mpnet": replace(
        ROBERTA,
        mixer=replace(BERT_ATTENTION, names=("attn.q", "attn.k", "attn.v", "attn.o")),
        other=mpnet_other,
        unused_positions=mpnet_up_to_padding,
        defaults={"relative_attention_num_buckets": 32},
    ),
    "electra": replace(BERT, position_width=token_width, other=electra_other),
    "deberta-v2": replace(
        BERT,
        mixer=replace(BERT_ATTENTION, names=("self.query_proj", "self.key_proj", "self.value_proj", "output.dense")),
        position=deberta_position,
        other=deberta_other,
        defaults={"type_vocab_size": 0, "position_biased_input": True, "max_position_embeddings": 512},
    ),
    "modernbert": Decoder(
        Projections(
            ("Wqkv", "Wo"),
            bias="attention_bias",
            kv_heads=one_for_each_head,
            window=Window("local_attention", kinds=modernbert_kinds),
        ),
        Mlp(("Wi", "Wo"), bias="mlp_bias"),
        # The first layer has no norm before its attention; the embeddings have one instead.
        norm=LAYER_WITHOUT_BIAS,
        has_head=False,
        activation="gelu",
        defaults={"local_attention": 128, "global_attn_every_n_layers": 3},
    ),
    "nomic_bert": Decoder(
        Projections(kv_heads=one_for_each_head),
        norm=LAYER,
        final_norm=False,
        has_head=False,
        other=nomic_other,
        defaults={"type_vocab_size": 2},
    ),
    "eurobert": replace(LLAMA, has_head=False),
}
