"""ModelShape: a model as sizes. Everything that memory and time are computed from, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

BYTES_PER_ELEMENT = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float8_e4m3fn": 1.0,
    "float8_e5m2": 1.0,
    "int8": 1.0,
    "uint8": 1.0,
}


@dataclass(frozen=True)
class Linear:
    """One weight matrix, named part.module as the model class has it (`attention.q_proj`, `mlp.down_proj`,
    `experts.gate_up_proj`, `shared.up_proj`, `router.gate`); `copies` of it where each expert has one."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False
    copies: int = 1

    @property
    def weights(self) -> int:
        """Elements of the matrices: what a quantiser stores in fewer bits."""
        return self.copies * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + (self.copies * self.outputs if self.bias else 0)


@dataclass(frozen=True)
class Attention:
    """The mixer of a layer that keeps keys and values; `latent_size` where one compressed vector is kept instead."""

    heads: int
    kv_heads: int
    head_size: int
    value_size: int
    window: int | None = None
    latent_size: int | None = None

    @property
    def cache_elements_per_token(self) -> int:
        """What a fully expanded cache (transformers) keeps for one token of one layer."""
        return self.kv_heads * (self.head_size + self.value_size)

    @property
    def latent_elements_per_token(self) -> int:
        """What an engine with a compressed cache (vLLM for MLA) keeps; the expanded one where there is no latent."""
        return self.latent_size if self.latent_size is not None else self.cache_elements_per_token


@dataclass(frozen=True)
class Recurrent:
    """The mixer of a layer whose state does not grow with the text (Mamba, gated delta, short convolution)."""

    kind: str
    state_elements: int


@dataclass(frozen=True)
class FeedForward:
    """Widths of one layer's MLP. A dense one has `experts == 0`; an expert's width stands in `expert_size`."""

    intermediate_size: int
    gated: bool = True
    experts: int = 0
    active_experts: int = 0
    expert_size: int = 0
    shared_size: int = 0


@dataclass(frozen=True)
class Layer:
    """One block: its mixer, its feed-forward network, and all their matrices."""

    mixer: Attention | Recurrent
    feed_forward: FeedForward
    linears: tuple[Linear, ...]
    norm_parameters: int
    other_parameters: int = 0
    cross_attention: bool = False

    @cached_property
    def linear_weights(self) -> int:
        return sum(linear.weights for linear in self.linears)

    @cached_property
    def parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears) + self.norm_parameters + self.other_parameters


@dataclass(frozen=True)
class Quantisation:
    """How the checkpoint's matrices are already stored.

    `method`: gptq, awq, compressed-int (compressed-tensors, integers), fp8, mxfp4, nvfp4, nf4, nf4-dq, int8
    (bitsandbytes). One scale serves `group_rows` outputs x `group_size` inputs; None: a whole row or matrix.
    """

    method: str
    bits: int
    group_size: int | None = None
    group_rows: int = 1
    skipped: tuple[str, ...] = ()
    """Names of the linears that stay in the model's own type, `lm_head` and `embedding` among them; with
    `layers.3.` before it where only layer 3 spares it."""
    own_head: bool = False
    """The model is tied, yet its checkpoint brings a head of its own, which stays in memory beside the token table."""

    def spares(self, linear: str, layer: int) -> bool:
        """Whether this linear of this layer stays in the model's own type."""
        return linear in self.skipped or f"layers.{layer}.{linear}" in self.skipped


@dataclass(frozen=True, eq=False)
class ModelShape:
    """Compared by identity, which is quick: what follows from a shape is remembered under it."""

    name: str
    architecture: str
    """`model_type` of config.json."""
    hidden_size: int
    vocabulary_size: int
    context_tokens: int | None
    layers: tuple[Layer, ...]
    embedding_parameters: int
    """Token table, and positions where they are learned."""
    head_parameters: int
    """The output projection where it is a matrix of its own; 0 where tied to the token table, or absent."""
    final_norm_parameters: int
    tied: bool
    dtype: str
    encoder_layers: tuple[Layer, ...] = ()
    other_parameters: int = 0
    """Vision towers, projectors, encoder norms: counted, never quantised by the text model's settings."""
    quantisation: Quantisation | None = None
    source: str = ""
    traits: dict[str, str] = field(default_factory=dict)
    """Facts that change how activations are saved and that no size tells: activation function, norm kind."""

    def __post_init__(self) -> None:
        """Equal layers become one object, so that what is counted of one need not be counted again of the others."""
        known: dict[Layer, Layer] = {}
        by_identity: dict[int, Layer] = {}
        for name in ("encoder_layers", "layers"):
            layers = []
            for layer in getattr(self, name):
                if id(layer) not in by_identity:
                    by_identity[id(layer)] = known.setdefault(layer, layer)
                layers.append(by_identity[id(layer)])
            object.__setattr__(self, name, tuple(layers))

    @cached_property
    def counted_layers(self) -> tuple[tuple[Layer, int], ...]:
        """Each of the unequal layers, and how many there are of it; an encoder's left out."""
        return _counted(self.layers)

    @cached_property
    def counted_all_layers(self) -> tuple[tuple[Layer, int], ...]:
        return _counted((*self.encoder_layers, *self.layers))

    def all_layers(self) -> Iterator[Layer]:
        yield from self.encoder_layers
        yield from self.layers

    @cached_property
    def parameters(self) -> int:
        return sum(self.parameters_by_part().values())

    @cached_property
    def linear_weights(self) -> int:
        """Matrix elements inside the blocks: what LoRA's all-linear adapts and quantisers shrink."""
        return sum(count * layer.linear_weights for layer, count in self.counted_all_layers)

    def parameters_by_part(self) -> dict[str, int]:
        """embedding, attention, mlp, experts, router, norms, head, other: parameters, summing to the whole."""
        parts = dict.fromkeys(("embedding", "attention", "mlp", "experts", "router", "norms", "head", "other"), 0)
        parts["embedding"] = self.embedding_parameters
        parts["head"] = self.head_parameters
        parts["norms"] = self.final_norm_parameters
        parts["other"] = self.other_parameters
        for layer, count in self.counted_all_layers:
            parts["norms"] += count * layer.norm_parameters
            parts["other"] += count * layer.other_parameters
            for linear in layer.linears:
                parts[part_of(linear)] += count * linear.parameters
        return parts

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: a mixture's idle experts left out."""
        idle = 0
        for layer, count in self.counted_all_layers:
            for linear in layer.linears:
                if linear.copies > 1:
                    used = layer.feed_forward.active_experts
                    idle += count * linear.parameters // linear.copies * (linear.copies - used)
        return self.parameters - idle


def _counted(layers: Sequence[Layer]) -> tuple[tuple[Layer, int], ...]:
    """Equal ones are one object."""
    by_identity = {id(layer): layer for layer in layers}
    counts = Counter(id(layer) for layer in layers)
    return tuple((layer, counts[key]) for key, layer in by_identity.items())


def part_of(linear: Linear) -> str:
    """attention, mlp, experts or router."""
    part = linear.name.split(".")[0]
    return "mlp" if part == "shared" else part
