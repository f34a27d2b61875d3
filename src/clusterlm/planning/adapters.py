"""Which parameters are trained, and how large the adapters are."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.shape import Layer, Linear, ModelShape
from clusterlm.planning.workload import Workload

ALL_LINEAR = "all-linear"


EXPERTS_ADAPTED = frozenset(
    [
        "mixtral", "minimax", "minimax_m2", "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1",
        "ernie4_5_moe", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "longcat_flash", "qwen3_moe", "qwen3_next",
        "hunyuan_v1_moe", "flex_olmo", "olmoe", "kimi_k2", "kimi_vl",
    ]
)  # fmt: skip
"""PEFT 0.21 with transformers 5: all-linear (or the names of an expert's matrices) means the fused tensors and router
of these, and no dense MLP beside them (peft/utils/transformers_weight_conversion.py)."""


@dataclass(frozen=True)
class Adapted:
    """A matrix with an adapter, and the adapter's rank in units of the rank asked for."""

    linear: Linear
    ranks: int = 1

    def parameters(self, rank: int) -> int:
        return self.ranks * rank * self.linear.copies * (self.linear.inputs + self.linear.outputs)


def adapts(linear: Linear, targets: tuple[str, ...]) -> bool:
    """PEFT adapts nn.Linear modules by the end of their name."""
    name = linear.name.split(".", 1)[-1]
    if ALL_LINEAR in targets:
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


def adapted_of_layer(shape: ModelShape, layer: Layer, workload: Workload) -> list[Adapted]:
    fused = workload.software.engine == "transformers" and workload.software.version >= (5,)
    ranks = ((one, _ranks(shape.architecture, one, workload.lora_targets, fused=fused)) for one in layer.linears)
    return [Adapted(linear, number) for linear, number in ranks if number]


def counted_adapted_linears(shape: ModelShape, workload: Workload) -> list[tuple[Adapted, int]]:
    """Matrices that get adapters, and how many layers are equal to the one that has them."""
    counted = shape.counted_all_layers
    return [(adapted, count) for layer, count in counted for adapted in adapted_of_layer(shape, layer, workload)]


def _ranks(architecture: str, linear: Linear, targets: tuple[str, ...], *, fused: bool) -> int:
    """0 where the matrix gets no adapter; a fused pair of matrices gets one of twice the rank."""
    part = linear.name.split(".")[0]
    pair = "gate_up" in linear.name
    whole = ALL_LINEAR in targets or {"gate_proj", "up_proj", "down_proj"} <= set(targets)
    if fused and architecture in EXPERTS_ADAPTED and whole and part in ("experts", "mlp", "shared"):
        return (2 if pair else 1) if part == "experts" else 0
    if fused and part == "router" and architecture not in EXPERTS_ADAPTED:
        return 0  # a parameter of its own, no nn.Linear
    if linear.copies > 1:
        return 0
    return int(adapts(linear, targets))


def adapter_parameters(shape: ModelShape, workload: Workload) -> int:
    """LoRA: rank x (inputs + outputs) for each matrix that is adapted."""
    if workload.method == "adapter-v1":
        return len(shape.layers) * (10 * shape.hidden_size + 32)
    if workload.method == "adapter-v2":
        rows = sum(2 * linear.outputs * linear.copies for layer in shape.layers for linear in layer.linears)
        norms = sum(layer.norm_parameters for layer in shape.layers) + shape.final_norm_parameters
        return rows + norms + 2 * shape.vocabulary_size + len(shape.layers) * (10 * shape.hidden_size + 32)
    rank, targets = workload.lora_rank, workload.lora_targets
    total = sum(count * adapted.parameters(rank) for adapted, count in counted_adapted_linears(shape, workload))
    if "lm_head" in targets:
        total += rank * (shape.hidden_size + shape.vocabulary_size)
    return total


def trained_parameters(shape: ModelShape, workload: Workload) -> int:
    if workload.method == "full":
        return shape.parameters
    if workload.method == "frozen":
        return 0
    return adapter_parameters(shape, workload)
