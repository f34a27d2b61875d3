"""How many bytes a model's weights take as they are stored on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from clusterlm.model.shape import BYTES_PER_ELEMENT, Layer, Linear, ModelShape


@dataclass(frozen=True)
class Scheme:
    """A way to store a matrix in fewer bits: bytes for each weight, each output row, each input column."""

    per_weight: float
    per_output: float = 0.0
    per_input: float = 0.0
    experts_only: bool = False
    source: str = ""


def gptq(bits: int, group_size: int | None) -> Scheme:
    return Scheme(
        bits / 8 + per_group(2 + bits / 8, group_size),
        per_output=0 if group_size else 2 + bits / 8,
        per_input=4,
        source="qweight, fp16 scales and packed zeros for each group, int32 g_idx for each input (AutoGPTQ qlinear)",
    )


def awq(bits: int, group_size: int | None) -> Scheme:
    return Scheme(
        bits / 8 + per_group(2 + bits / 8, group_size),
        per_output=0 if group_size else 2 + bits / 8,
        source="AutoAWQ WQLinear: qweight, fp16 scales and packed zeros for each group",
    )


def compressed_integers(bits: int, group_size: int | None, group_rows: int = 1) -> Scheme:
    return Scheme(
        bits / 8 + per_group(2 / group_rows, group_size),
        per_output=0 if group_size else 4,
        source="compressed-tensors: packed integers, a bf16 scale for each group or an fp32 one for each row",
    )


def eight_bit_floats(group_size: int | None, group_rows: int = 1) -> Scheme:
    return Scheme(
        1 + per_group(4 / group_rows, group_size),
        per_output=0 if group_size else 4,
        source="fp8 with an fp32 scale for each block (transformers finegrained_fp8) or each row (vLLM)",
    )


def per_group(scale_bytes: float, group_size: int | None) -> float:
    return scale_bytes / group_size if group_size else 0.0


BLOCK = 128
"""Edge of the usual fp8 block, and length of the usual group of GPTQ and AWQ."""
SCHEMES: dict[str, Scheme] = {
    "nf4": Scheme(0.5 + 4 / 64, source="bitsandbytes: 4 bits + fp32 absmax per 64"),
    "nf4-dq": Scheme(
        0.5 + 1 / 64 + 4 / (64 * 256), source="bitsandbytes: absmax itself in 8 bits, fp32 per 256 of them"
    ),
    "int8": Scheme(1.0, per_output=4, source="bitsandbytes LLM.int8: fp32 scale per row"),
    "gptq-int4": gptq(4, BLOCK),
    "gptq-int8": gptq(8, BLOCK),
    "awq-int4": awq(4, BLOCK),
    "fp8": eight_bit_floats(None),
    "fp8-block": eight_bit_floats(BLOCK, BLOCK),
    "w8a8": compressed_integers(8, None),
    "w4a16": compressed_integers(4, BLOCK),
    "mxfp4": Scheme(0.5 + 1 / 32, experts_only=True, source="OCP MX: 4 bits + one shared exponent byte per 32"),
    "nvfp4": Scheme(0.5 + 1 / 16, source="ModelOpt: 4 bits + one fp8 scale per 16"),
}
"""What can be asked for while loading, and the usual sizes of what checkpoints bring."""


def scheme_of(shape: ModelShape, quantise: str | None) -> Scheme | None:
    """The checkpoint's own quantisation, or else the one asked for while loading, a key of SCHEMES."""
    stored = shape.quantisation
    if stored is None:
        return SCHEMES[quantise] if quantise else None
    if stored.method == "gptq":
        return gptq(stored.bits, stored.group_size)
    if stored.method == "awq":
        return awq(stored.bits, stored.group_size)
    if stored.method == "compressed-int":
        return compressed_integers(stored.bits, stored.group_size, stored.group_rows)
    if stored.method == "fp8":
        return eight_bit_floats(stored.group_size, stored.group_rows)
    return SCHEMES[stored.method]


@dataclass(frozen=True)
class WeightSizes:
    """Bytes by place in the model, in the order in which they are passed through."""

    embedding: int
    layers: tuple[int, ...]
    head: int
    other: int
    largest_dequantised: int
    """The largest matrix back in the compute type: what a quantised layer unpacks for one product."""

    @cached_property
    def total(self) -> int:
        return self.embedding + sum(self.layers) + self.head + self.other

    @property
    def outside_layers(self) -> int:
        return self.embedding + self.head + self.other


def element_bytes(dtype: str) -> float:
    return BYTES_PER_ELEMENT[dtype]


@lru_cache(maxsize=64)
def weight_sizes(shape: ModelShape, dtype: str, scheme: Scheme | None) -> WeightSizes:
    size = element_bytes(dtype)
    stored = shape.quantisation
    layers: list[int] = []
    memo: dict[tuple[int, frozenset[str]], int] = {}
    spares_some = stored is not None and bool(stored.skipped)
    nothing: frozenset[str] = frozenset()
    for index, layer in enumerate(shape.all_layers()):
        spared = nothing
        if stored and spares_some:
            spared = frozenset(one.name for one in layer.linears if stored.spares(one.name, index))
        key = id(layer), spared
        if key not in memo:
            memo[key] = round(_layer_bytes(layer, size, scheme, spared))
        layers.append(memo[key])
    largest = max(
        (one.inputs * one.outputs for layer, _ in shape.counted_all_layers for one in layer.linears), default=0
    )
    return WeightSizes(
        embedding=round(shape.embedding_parameters * size),
        layers=tuple(layers),
        head=round(_head_bytes(shape, size, scheme)),
        other=round((shape.other_parameters + shape.final_norm_parameters) * size),
        largest_dequantised=round(largest * size) if scheme else 0,
    )


def _head_bytes(shape: ModelShape, size: float, scheme: Scheme | None) -> float:
    stored = shape.quantisation
    if stored and stored.own_head:
        return shape.vocabulary_size * shape.hidden_size * size
    if stored and scheme and "lm_head" not in stored.skipped:
        return shape.head_parameters * scheme.per_weight
    return shape.head_parameters * size


def _layer_bytes(layer: Layer, size: float, scheme: Scheme | None, spared: frozenset[str]) -> float:
    return (layer.norm_parameters + layer.other_parameters) * size + sum(
        linear_bytes(linear, size, None if _stays(linear, scheme, spared) else scheme) for linear in layer.linears
    )


def _stays(linear: Linear, scheme: Scheme | None, spared: frozenset[str]) -> bool:
    if linear.name.startswith("router") or linear.name in spared:
        return True
    return scheme is not None and scheme.experts_only and linear.copies == 1


def linear_bytes(linear: Linear, size: float, scheme: Scheme | None) -> float:
    bias = (linear.parameters - linear.weights) * size
    if scheme is None:
        return linear.weights * size + bias
    columns = linear.outputs * scheme.per_output + linear.inputs * scheme.per_input
    return linear.weights * scheme.per_weight + linear.copies * columns + bias
