"""From a row of the table and a config.json to the shape of a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterlm.model.blocks import GATED_MLP, RMS, FeedForwardRule, MixerRule, Norm, Projections
from clusterlm.model.config import Config, Flag
from clusterlm.model.sanity import check_sizes
from clusterlm.model.shape import Layer, ModelShape

# A config.json without a type is of the years in which checkpoints were float32 (gpt2, bert, t5).
DTYPE_WHERE_UNSAID = "float32"


def dtype_of(config: Config) -> str:
    """What is quantised is younger than the years of float32: gpt-oss names no type, and the rest of it is bfloat16."""
    unsaid = "bfloat16" if config.value("quantization_config") else DTYPE_WHERE_UNSAID
    return (config.text("dtype") or unsaid).removeprefix("torch.")


def one_norm(config: Config) -> int:
    return 1


def two_norms(config: Config) -> int:
    return 2


def four_norms(config: Config) -> int:
    return 4


def rope(config: Config) -> str:
    return "rope"


def learned(config: Config) -> str:
    return "learned"


def alibi(config: Config) -> str:
    return "alibi"


def no_position(config: Config) -> str:
    return "none"


def hidden_width(config: Config) -> int:
    return config.hidden_size


def zero(config: Config) -> int:
    return 0


@dataclass(frozen=True)
class Decoder:
    """One architecture: what its model class fixes and its config.json does not say."""

    mixer: MixerRule = field(default_factory=Projections)
    feed_forward: FeedForwardRule = GATED_MLP
    norm: Norm = RMS
    norms: Callable[[Config], int] = two_norms
    """Norms as wide as the hidden state in one layer."""
    final_norm: Flag = True
    tied: bool = False
    """Where config.json does not say."""
    activation: str = "silu"
    """Where config.json does not say."""
    position: Callable[[Config], str] = rope
    position_offset: int = 0
    """Rows of a learned position table beyond the context."""
    unused_positions: Callable[[Config], int] = zero
    """Of max_position_embeddings, those that no token gets."""
    position_width: Callable[[Config], int] = hidden_width
    head_bias: Flag = False
    has_head: bool = True
    """Whether tokens are predicted; encoders end with their last hidden state."""
    parallel: Flag | Callable[[Config], bool] = False
    """Attention and MLP read one normed input."""
    other: Callable[[Config], int] = zero
    """Parameters outside embedding, layers, final norm and head."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of the configuration class that published files leave out."""

    def shape(self, raw: Config, model_type: str) -> ModelShape:
        defaults = {"tie_word_embeddings": self.tied, "hidden_act": self.activation, **self.defaults}
        config = raw.with_defaults(defaults)
        check_sizes(config)
        vocabulary = config.integer("vocab_size")
        tied = self.has_head and config.flag("tie_word_embeddings")
        # OPT-350m's tokens are narrower than its layers.
        token_size = config.optional_integer("word_embed_proj_dim") or config.hidden_size
        final_norm = self.norm.parameters(config, config.hidden_size) if config.flag(self.final_norm) else 0
        return ModelShape(
            name=config.model,
            architecture=model_type,
            hidden_size=config.hidden_size,
            vocabulary_size=vocabulary,
            context_tokens=self._context_tokens(config),
            layers=tuple(self._layer(config, layer) for layer in range(config.layer_count)),
            embedding_parameters=vocabulary * token_size + self._position_parameters(config),
            head_parameters=self._head_parameters(config, token_size, tied),
            final_norm_parameters=final_norm,
            tied=tied,
            dtype=dtype_of(config),
            other_parameters=self.other(config),
            traits=self._traits(config),
        )

    def _layer(self, config: Config, layer: int) -> Layer:
        mixing = self.mixer.build(config, layer)
        feeding = self.feed_forward.build(config, layer)
        norms = self.norms(config) * self.norm.parameters(config, config.hidden_size)
        return Layer(
            mixer=mixing.mixer,
            feed_forward=feeding.feed_forward,
            linears=mixing.linears + feeding.linears,
            norm_parameters=norms + mixing.norm_parameters,
            other_parameters=mixing.other_parameters + feeding.other_parameters,
        )

    def _head_parameters(self, config: Config, token_size: int, tied: bool) -> int:
        vocabulary = config.integer("vocab_size")
        if not self.has_head:
            return 0
        return (0 if tied else vocabulary * token_size) + (vocabulary if config.flag(self.head_bias) else 0)

    def _position_parameters(self, config: Config) -> int:
        if self.position(config) != "learned":
            return 0
        return (config.integer("max_position_embeddings") + self.position_offset) * self.position_width(config)

    def _context_tokens(self, config: Config) -> int | None:
        rows, unused = config.optional_integer("max_position_embeddings"), self.unused_positions(config)
        if rows and rows <= unused:
            raise config.error(f"config.json has max_position_embeddings = {rows}, of which {unused} get no token")
        return rows - unused if rows else None

    def _traits(self, config: Config) -> dict[str, str]:
        traits = {
            "activation": config.text("hidden_act") or self.activation,
            "norm": self.norm.kind,
            "position": self.position(config),
        }
        if self.parallel(config) if callable(self.parallel) else config.flag(self.parallel):
            traits["parallel_residual"] = "yes"
        if self.mixer.norms_queries(config):
            traits["qk_norm"] = "yes"
        return traits
