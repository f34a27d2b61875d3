"""The parts that a layer is put together from, each as rules that turn a config.json into weight matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from clusterlm.model.config import Config, Flag
from clusterlm.model.shape import Attention, FeedForward, Linear, Recurrent


@dataclass(frozen=True)
class MixerPart:
    """What mixes tokens in one layer."""

    mixer: Attention | Recurrent
    linears: tuple[Linear, ...]
    norm_parameters: int = 0
    other_parameters: int = 0


@dataclass(frozen=True)
class FeedForwardPart:
    """What follows the mixer in one layer."""

    feed_forward: FeedForward
    linears: tuple[Linear, ...]
    other_parameters: int = 0


class MixerRule(Protocol):
    def build(self, config: Config, layer: int) -> MixerPart: ...

    def norms_queries(self, config: Config) -> bool: ...


class FeedForwardRule(Protocol):
    def build(self, config: Config, layer: int) -> FeedForwardPart: ...


@dataclass(frozen=True)
class Norm:
    """The norm of an architecture, and the parameters it has."""

    kind: str
    bias: bool = False
    affine: Flag = True

    def parameters(self, config: Config, width: int) -> int:
        if not config.flag(self.affine):
            return 0
        return 2 * width if self.bias else width


RMS = Norm("rms")
LAYER = Norm("layer", bias=True)
LAYER_WITHOUT_BIAS = Norm("layer")


def layer_types(config: Config) -> list[str]:
    return config.items("layer_types")


@dataclass(frozen=True)
class Window:
    """Which layers see only their last tokens: what the file's list of `kinds` says, else the architecture's rule."""

    size: str = "sliding_window"
    full_every: int | str = 0
    """Each n-th layer sees everything (0: none does); or the key that holds n."""
    when: Flag = True
    from_layer: str = ""
    until_layer: str = ""
    kinds: Callable[[Config], list[str]] = layer_types

    def tokens(self, config: Config, layer: int) -> int | None:
        if not config.flag(self.when):
            return None
        kinds = self.kinds(config)
        if kinds:
            key = {"sliding_attention": self.size, "chunked_attention": "attention_chunk_size"}.get(kinds[layer])
            return config.optional_integer(key) or None if key else None
        return config.optional_integer(self.size) or None if self._slides(config, layer) else None

    def _slides(self, config: Config, layer: int) -> bool:
        period = config.optional_integer(self.full_every) if isinstance(self.full_every, str) else self.full_every
        first = config.optional_integer(self.from_layer) or 0
        end = config.optional_integer(self.until_layer)
        is_full = period and (layer + 1) % period == 0
        return not is_full and layer >= first and (end is None or layer < end)


NO_WINDOW = Window(when=False)


@dataclass(frozen=True)
class QueryKeyNorm:
    """A norm of queries and keys: one of head size that all heads share, or one as wide as the projection."""

    whole: bool = False
    norm: Norm = RMS
    when: Flag = True

    def parameters(self, config: Config, query_size: int, key_size: int) -> int:
        if not config.flag(self.when):
            return 0
        widths = (query_size, key_size) if self.whole else (config.head_size, config.head_size)
        return sum(self.norm.parameters(config, width) for width in widths)


def grouped(config: Config) -> int:
    return config.kv_heads


def one_for_each_head(config: Config) -> int:
    return config.heads


@dataclass(frozen=True)
class Projections:
    """Attention by the module names of the model class: four for q, k, v and output, two where q, k, v are fused."""

    names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    bias: Flag = False
    output_bias: Flag | None = None
    """None: as `bias`."""
    kv_heads: Callable[[Config], int] = grouped
    query_key_norm: QueryKeyNorm | None = None
    window: Window = NO_WINDOW
    gate: str = ""
    """Module that scales the attention's output, as wide as the queries."""
    query_copies: int = 1
    """2 where q_proj holds that gate too."""
    sinks: bool = False
    """One learned logit for each head."""
    expands_cache: Flag = False
    """transformers keeps a key and a value for each query head; vLLM keeps the grouped ones."""

    def build(self, config: Config, layer: int) -> MixerPart:
        heads, kv_heads, size = config.heads, self.kv_heads(config), config.head_size
        norm = self.query_key_norm
        window = self.window.tokens(config, layer)
        attention = Attention(heads, kv_heads, size, size, window)
        if config.flag(self.expands_cache):
            attention = Attention(heads, heads, size, size, window, latent_size=2 * kv_heads * size)
        return MixerPart(
            attention,
            self._linears(config, heads * size, kv_heads * size),
            norm.parameters(config, heads * size, kv_heads * size) if norm else 0,
            heads if self.sinks else 0,
        )

    def norms_queries(self, config: Config) -> bool:
        return self.query_key_norm is not None and config.flag(self.query_key_norm.when)

    def _linears(self, config: Config, queries: int, keys: int) -> tuple[Linear, ...]:
        hidden = config.hidden_size
        bias = config.flag(self.bias)
        output_bias = bias if self.output_bias is None else config.flag(self.output_bias)
        *inputs, output = (f"attention.{name}" for name in self.names)
        widths = [queries * self.query_copies, keys, keys]
        if len(inputs) == 1:
            widths = [sum(widths)]
        linears = [Linear(name, hidden, width, bias) for name, width in zip(inputs, widths, strict=True)]
        if self.gate:
            linears.append(Linear(f"attention.{self.gate}", hidden, queries))
        return (*linears, Linear(output, queries, hidden, output_bias))


def named_width(config: Config) -> int:
    return config.intermediate_size


def named_or_four_times_hidden(config: Config) -> int:
    return config.optional_integer("intermediate_size") or 4 * config.hidden_size


def four_times_hidden(config: Config) -> int:
    return 4 * config.hidden_size


@dataclass(frozen=True)
class Mlp:
    """A dense MLP by its module names: the matrices that widen, then the one that narrows."""

    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    gated: bool = True
    """Two matrices widen; where only one is named, both are fused into it."""
    bias: Flag = False
    width: Callable[[Config], int] = named_width
    part: str = "mlp"
    other_parameters: int = 0

    def build(self, config: Config, layer: int) -> FeedForwardPart:
        width = self.width(config)
        linears = self.linears(config, width)
        return FeedForwardPart(FeedForward(width, gated=self.gated), linears, self.other_parameters)

    def linears(self, config: Config, width: int) -> tuple[Linear, ...]:
        hidden = config.hidden_size
        bias = config.flag(self.bias)
        *wideners, narrower = (f"{self.part}.{name}" for name in self.names)
        fused = 2 if self.gated and len(wideners) == 1 else 1
        widening = [Linear(name, hidden, fused * width, bias) for name in wideners]
        return (*widening, Linear(narrower, width, hidden, bias))


@dataclass(frozen=True)
class NoFeedForward:
    """The mixer is the whole layer."""

    def build(self, config: Config, layer: int) -> FeedForwardPart:
        return FeedForwardPart(FeedForward(0, gated=False), ())


@dataclass(frozen=True)
class MixerByKind:
    """Layers of several kinds: the list of them, and a mixer for each kind."""

    kinds: Callable[[Config], list[str]]
    rules: Mapping[str, MixerRule]

    def build(self, config: Config, layer: int) -> MixerPart:
        kind = self.kinds(config)[layer]
        if kind not in self.rules:
            raise config.error(f"config.json has a layer of kind {kind!r}; there is: {', '.join(self.rules)}")
        return self.rules[kind].build(config, layer)

    def norms_queries(self, config: Config) -> bool:
        return any(rule.norms_queries(config) for rule in self.rules.values())


GATED_MLP = Mlp()
GATED_FUSED_MLP = Mlp(("gate_up_proj", "down_proj"))
