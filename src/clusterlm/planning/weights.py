"""How many bytes a model's weights take as they are stored on the GPU."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.shape import BYTES_PER_ELEMENT, Layer, Linear, ModelShape


@dataclass(frozen=True)
class Scheme:
    """A way to store a matrix in fewer bits: bytes for each weight, each output row, each input column."""

    per_weight: float
    per_output: float = 0.0
    per_input: float = 0.0
    experts_only: bool = False
    source: str = ""


GPTQ = "qweight + fp16 scales + packed zeros per group of 128, int32 g_idx per input (AutoGPTQ qlinear)"
SCHEMES: dict[str, Scheme] = {
    "nf4": Scheme(0.5 + 4 / 64, source="bitsandbytes: 4 bits + fp32 absmax per 64"),
    "nf4-dq": Scheme(
        0.5 + 1 / 64 + 4 / (64 * 256), source="bitsandbytes: absmax itself in 8 bits, fp32 per 256 of them"
    ),
    "int8": Scheme(1.0, per_output=4, source="bitsandbytes LLM.int8: fp32 scale per row"),
    "gptq-int4": Scheme(0.5 + 2.5 / 128, per_input=4, source=GPTQ),
    "gptq-int8": Scheme(1.0 + 3 / 128, per_input=4, source=GPTQ),
    "awq-int4": Scheme(0.5 + 2.5 / 128, source="AutoAWQ WQLinear: qweight, fp16 scales, packed zeros per group of 128"),
    "fp8": Scheme(1.0, per_output=4, source="fp8 with a scale per channel (vLLM, compressed-tensors)"),
    "fp8-block": Scheme(
        1.0 + 4 / 128**2, source="fp8 with an fp32 scale per block of 128 x 128 (transformers finegrained_fp8)"
    ),
    "w8a8": Scheme(1.0, per_output=4, source="compressed-tensors int8, a scale per channel"),
    "w4a16": Scheme(0.5 + 2 / 128, source="compressed-tensors int4, a bf16 scale per group of 128"),
    "mxfp4": Scheme(0.5 + 1 / 32, experts_only=True, source="OCP MX: 4 bits + one shared exponent byte per 32"),
}


def scheme_of(shape: ModelShape, quantise: str | None) -> str | None:
    """The checkpoint's own quantisation, or else the one asked for while loading, as a key of SCHEMES."""
    stored = shape.quantisation
    if stored is None:
        return quantise
    names = {
        "gptq": f"gptq-int{stored.bits}",
        "awq": "awq-int4",
        "fp8": "fp8-block" if stored.group_size else "fp8",
        "mxfp4": "mxfp4",
        "compressed-tensors": {"float": "fp8"}.get(str(stored.group_size), ""),
    }
    return names.get(stored.method) or stored.method


@dataclass(frozen=True)
class WeightSizes:
    """Bytes by place in the model, in the order in which they are passed through."""

    embedding: int
    layers: tuple[int, ...]
    head: int
    other: int
    largest_dequantised: int
    """The largest matrix back in the compute type: what a quantised layer unpacks for one product."""

    @property
    def total(self) -> int:
        return self.embedding + sum(self.layers) + self.head + self.other

    @property
    def outside_layers(self) -> int:
        return self.embedding + self.head + self.other


def element_bytes(dtype: str) -> float:
    return BYTES_PER_ELEMENT[dtype]


def weight_sizes(shape: ModelShape, dtype: str, scheme_name: str | None) -> WeightSizes:
    size = element_bytes(dtype)
    scheme = SCHEMES[scheme_name] if scheme_name else None
    skipped = shape.quantisation.skipped if shape.quantisation else ()
    memo: dict[Layer, int] = {}
    for layer in shape.all_layers():
        if layer not in memo:
            memo[layer] = round(_layer_bytes(layer, size, scheme, skipped))
    largest = max((one.inputs * one.outputs for layer in memo for one in layer.linears), default=0)
    return WeightSizes(
        embedding=round(shape.embedding_parameters * size),
        layers=tuple(memo[layer] for layer in shape.all_layers()),
        head=round(shape.head_parameters * size),
        other=round((shape.other_parameters + shape.final_norm_parameters) * size),
        largest_dequantised=round(largest * size) if scheme else 0,
    )


def _layer_bytes(layer: Layer, size: float, scheme: Scheme | None, skipped: tuple[str, ...]) -> float:
    return (layer.norm_parameters + layer.other_parameters) * size + sum(
        linear_bytes(linear, size, None if _stays(linear, scheme, skipped) else scheme) for linear in layer.linears
    )


def _stays(linear: Linear, scheme: Scheme | None, skipped: tuple[str, ...]) -> bool:
    if linear.name.startswith("router") or any(part in linear.name for part in skipped):
        return True
    return scheme is not None and scheme.experts_only and linear.copies == 1


def linear_bytes(linear: Linear, size: float, scheme: Scheme | None) -> float:
    bias = (linear.parameters - linear.weights) * size
    if scheme is None:
        return linear.weights * size + bias
    columns = linear.outputs * scheme.per_output + linear.inputs * scheme.per_input
    return linear.weights * scheme.per_weight + linear.copies * columns + bias
