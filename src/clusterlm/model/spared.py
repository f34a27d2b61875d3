"""Which matrices a quantiser spared: its file's module names and patterns, turned into names of Linear."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from clusterlm.model.shape import Linear, ModelShape

CONTAINERS = {
    "attention": ("self_attn", "linear_attn", "attn", "attention", "self_attention", "mixer", "mamba", "conv"),
    "mlp": ("mlp", "feed_forward", "shared_mlp"),
    "experts": ("mlp.experts.0", "mlp.experts", "block_sparse_moe.experts.0", "feed_forward.experts"),
    "router": ("mlp", "block_sparse_moe", "feed_forward"),
    "shared": ("mlp.shared_expert", "mlp.shared_experts", "feed_forward.shared_expert", "shared_mlp", "mlp"),
}
"""Modules of published checkpoints that hold a part's matrices."""

FUSED = {
    "gate_up_proj": ("gate_up_proj", "gate_proj", "up_proj", "w1", "w3"),
    "down_proj": ("down_proj", "w2"),
    "gate": ("gate", "router", "router.layer"),
    "router": ("router", "gate", "router.layer"),
}
"""Names in checkpoints of matrices that transformers fuses or renames."""

LAYER = re.compile(r"^(?:.*\.)?(?:layers|h|blocks)\.(\d+|\*)(?:\.(.*))?$")
ANYTHING = re.escape("*")
TOWERS = ("vision", "visual", "vit", "audio")
STACKS = ("model.layers", "model.language_model.layers", "language_model.model.layers", "transformer.h")


def spared_linears(shape: ModelShape, listed: list[str], targets: list[str]) -> list[str]:
    """`attention.q_proj` where all layers spare it, `layers.3.attention.q_proj` where layer 3 does."""
    layers = [{linear.name: linear for linear in layer.linears} for layer in shape.layers]
    names = {name: linear for layer in layers for name, linear in layer.items()}
    modules = {name: list(_modules(linear)) for name, linear in names.items()}
    spared: dict[str, set[int]] = defaultdict(set)
    for pattern in listed:
        for name, indices in _matches(pattern, modules, len(layers)):
            spared[name] |= indices
    if "Linear" not in targets:
        wanted: dict[str, set[int]] = defaultdict(set)
        for pattern in targets:
            for name, indices in _matches(pattern, modules, len(layers)):
                wanted[name] |= indices
        for name in names:
            spared[name] |= set(range(len(layers))) - wanted[name]
    found: list[str] = []
    for name, indices in spared.items():
        present = {index for index, layer in enumerate(layers) if name in layer}
        if present and present <= indices:
            found.append(name)
        else:
            found += [f"layers.{index}.{name}" for index in sorted(present & indices)]
    return found


def _modules(linear: Linear) -> Iterator[str]:
    part, name = linear.name.split(".", 1)
    for container in CONTAINERS[part]:
        for spelling in FUSED.get(name, (name,)) if part in ("experts", "router") else (name,):
            yield f"{container}.{spelling}"


def _matches(pattern: str, modules: dict[str, list[str]], layer_count: int) -> Iterator[tuple[str, set[int]]]:
    """Names that the pattern means, each with the layers that it means them in."""
    if any(tower in pattern for tower in TOWERS):
        return
    everywhere = set(range(layer_count))
    if pattern.startswith("re:"):
        yield from _regular_expression(re.compile(pattern[3:]), modules, layer_count)
        return
    in_layer = LAYER.match(pattern)
    indices = everywhere if in_layer is None or in_layer[1] == "*" else {int(in_layer[1])}
    wanted = pattern if in_layer is None else in_layer[2] or "*"
    # Whole modules: `gate` is no part of `gate_proj`; a container spares all that it holds.
    rule = re.compile(rf"(?:.*\.)?(?:{re.escape(wanted).replace(ANYTHING, '.*')})(?:\..*)?")
    for name, paths in modules.items():
        if any(rule.fullmatch(path) for path in paths):
            yield name, indices


def _regular_expression(
    rule: re.Pattern[str], modules: dict[str, list[str]], layer_count: int
) -> Iterator[tuple[str, set[int]]]:
    # A pattern that speaks of no layer holds in all of them; trying each would take longer than all else.
    speaks_of_layers = "layers" in rule.pattern or re.search(r"\\?\.\d", rule.pattern)
    tried = range(layer_count) if speaks_of_layers else range(min(1, layer_count))
    for name, paths in modules.items():
        met = {
            layer for layer in tried if any(rule.match(f"{stack}.{layer}.{path}") for stack in STACKS for path in paths)
        }
        yield name, met if speaks_of_layers or not met else set(range(layer_count))
