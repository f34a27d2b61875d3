"""Which parameters are trained, and how large the adapters are."""

from __future__ import annotations

from clusterlm.model.shape import Linear, ModelShape
from clusterlm.planning.workload import Workload

ALL_LINEAR = "all-linear"


def adapts(linear: Linear, targets: tuple[str, ...]) -> bool:
    """PEFT adapts nn.Linear modules by the end of their name; a fused tensor of all experts is none."""
    if linear.copies > 1:
        return False
    name = linear.name.split(".", 1)[-1]
    if ALL_LINEAR in targets:
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


def adapted_linears(shape: ModelShape, targets: tuple[str, ...]) -> list[Linear]:
    return [linear for layer in shape.all_layers() for linear in layer.linears if adapts(linear, targets)]


def adapter_parameters(shape: ModelShape, workload: Workload) -> int:
    """LoRA: rank x (inputs + outputs) for each matrix that is adapted."""
    if workload.method == "adapter-v1":
        return len(shape.layers) * (10 * shape.hidden_size + 32)
    if workload.method == "adapter-v2":
        rows = sum(2 * linear.outputs * linear.copies for layer in shape.layers for linear in layer.linears)
        norms = sum(layer.norm_parameters for layer in shape.layers) + shape.final_norm_parameters
        return rows + norms + 2 * shape.vocabulary_size + len(shape.layers) * (10 * shape.hidden_size + 32)
    rank, targets = workload.lora_rank, workload.lora_targets
    total = sum(rank * (linear.inputs + linear.outputs) for linear in adapted_linears(shape, targets))
    if "lm_head" in targets:
        total += rank * (shape.hidden_size + shape.vocabulary_size)
    return total


def trained_parameters(shape: ModelShape, workload: Workload) -> int:
    if workload.method == "full":
        return shape.parameters
    if workload.method == "frozen":
        return 0
    return adapter_parameters(shape, workload)
