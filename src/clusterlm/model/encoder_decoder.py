"""The table of encoder-decoders: T5 (arXiv:1910.10683) and its kin."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.config import Config
from clusterlm.model.decoder import dtype_of
from clusterlm.model.sanity import check_sizes
from clusterlm.model.shape import Attention, FeedForward, Layer, Linear, ModelShape


@dataclass(frozen=True)
class EncoderDecoder:
    """`tied` where config.json does not say; `gated`, `activation` likewise."""

    tied: bool
    feed_forward: str
    positions_in_each_layer: bool = False
    """Else the first layer of each stack learns the relative positions of all."""

    def shape(self, raw: Config, model_type: str) -> ModelShape:
        defaults = {
            "tie_word_embeddings": self.tied,
            "feed_forward_proj": self.feed_forward,
            "relative_attention_num_buckets": 32,
        }
        config = raw.with_defaults(defaults)
        check_sizes(config)
        config.require("num_attention_heads", "intermediate_size", "head_dim")
        tied = config.flag("tie_word_embeddings")
        table = config.integer("vocab_size") * config.hidden_size
        decoder_layers = config.optional_integer("num_decoder_layers") or config.layer_count
        return ModelShape(
            name=config.model,
            architecture=model_type,
            hidden_size=config.hidden_size,
            vocabulary_size=config.integer("vocab_size"),
            context_tokens=config.optional_integer("max_position_embeddings"),
            layers=tuple(self._layer(config, layer, crosses=True) for layer in range(decoder_layers)),
            encoder_layers=tuple(self._layer(config, layer, crosses=False) for layer in range(config.layer_count)),
            embedding_parameters=table,
            head_parameters=0 if tied else table,
            final_norm_parameters=config.hidden_size,
            tied=tied,
            dtype=dtype_of(config),
            other_parameters=config.hidden_size,  # the encoder's last norm
            traits={"activation": self._activation(config), "norm": "rms", "position": "relative"},
        )

    def _activation(self, config: Config) -> str:
        name = (config.text("feed_forward_proj") or "").removeprefix("gated-")
        return "gelu_new" if name == "gelu" else name

    def _layer(self, config: Config, layer: int, crosses: bool) -> Layer:
        hidden, inner = config.hidden_size, config.heads * config.head_size
        width = config.intermediate_size
        gated = (config.text("feed_forward_proj") or "").startswith("gated")
        kinds = ("", "cross.") if crosses else ("",)
        attention = [linear for kind in kinds for linear in _attention(kind, hidden, inner)]
        wideners = ("wi_0", "wi_1") if gated else ("wi",)
        mlp = [Linear(f"mlp.{name}", hidden, width) for name in wideners] + [Linear("mlp.wo", width, hidden)]
        learns_positions = layer == 0 or self.positions_in_each_layer
        return Layer(
            mixer=Attention(config.heads, config.heads, config.head_size, config.head_size),
            feed_forward=FeedForward(width, gated=gated),
            linears=(*attention, *mlp),
            norm_parameters=(len(kinds) + 1) * hidden,
            other_parameters=config.integer("relative_attention_num_buckets") * config.heads if learns_positions else 0,
            cross_attention=crosses,
        )


def _attention(kind: str, hidden: int, inner: int) -> list[Linear]:
    inputs = [Linear(f"attention.{kind}{name}", hidden, inner) for name in ("q", "k", "v")]
    return [*inputs, Linear(f"attention.{kind}o", inner, hidden)]


ENCODER_DECODERS: dict[str, EncoderDecoder] = {
    "t5": EncoderDecoder(tied=True, feed_forward="relu"),
    "mt5": EncoderDecoder(tied=False, feed_forward="gated-gelu"),
    "umt5": EncoderDecoder(tied=False, feed_forward="gated-gelu", positions_in_each_layer=True),
}
