"""The pattern of a model's layers, and shallower models that keep it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch

from clusterlm.worker.trace.build import decoder_layers

Kind = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """`depth` layers, of which those from `first` on are `periods` equal groups of `period` layers."""

    depth: int
    first: int
    period: int
    periods: int

    def kept(self, periods: int) -> list[int]:
        """The layers of a model with so many periods: those after the first period are left out."""
        removed = (self.periods - periods) * self.period
        cut = self.first + self.period
        return [*range(cut), *range(cut + removed, self.depth)]

    def fewest_periods(self, edge_layers: int) -> int:
        """So many that a layer of each kind is neither among the first nor among the last `edge_layers`."""
        return max(2, math.ceil((2 * edge_layers + 1) / self.period))

    def traced_layers(self, edge_layers: int) -> int:
        """Of the shallowest model and of one that is a period deeper."""
        fewest = self.fewest_periods(edge_layers)
        return len(self.kept(fewest)) + len(self.kept(fewest + 1))


def find_pattern(kinds: list[Kind], edge_layers: int) -> Pattern | None:
    """The pattern with which two shallow models are smallest; None where they are no smaller than the whole."""
    patterns = [_longest_run(kinds, period) for period in range(1, len(kinds) // 3 + 1)]
    useful = [
        pattern
        for pattern in patterns
        if pattern.periods > pattern.fewest_periods(edge_layers) + 1
        and pattern.traced_layers(edge_layers) < pattern.depth
    ]
    return min(useful, key=lambda pattern: pattern.traced_layers(edge_layers), default=None)


def layer_kinds(model: Any, config: Any) -> list[Kind] | None:
    """For each layer all that sets it apart: parameters, settings, and its entry in the configuration's lists."""
    if (layers := decoder_layers(model)) is None:
        return None
    found = [_properties(layer) for layer in layers]
    own_index = {
        name
        for name in found[0]
        if all(
            type(properties.get(name)) is int and properties[name] == index for index, properties in enumerate(found)
        )
    }
    lists = _lists_by_layer(config)
    return [
        tuple((name, value) for name, value in sorted(properties.items()) if name not in own_index)
        + tuple((name, repr(values[index])) for name, values in lists.items())
        for index, properties in enumerate(found)
    ]


def shallow_config(config: Any, kept: list[int]) -> Any:
    """The same model with only the kept layers."""
    shallow = copy.deepcopy(config)
    text = shallow.get_text_config(decoder=True)
    lists = _lists_by_layer(config)
    text.num_hidden_layers = len(kept)
    for name, values in lists.items():
        setattr(text, name, type(values)(values[index] for index in kept))
    return shallow


def _longest_run(kinds: list[Kind], period: int) -> Pattern:
    """The longest stretch in which every layer is as the one a period later."""
    best, first, length = Pattern(len(kinds), 0, period, 1), 0, 0
    for index in range(len(kinds) - period):
        if kinds[index] != kinds[index + period]:
            length = 0
            continue
        first, length = (index, 1) if length == 0 else (first, length + 1)
        periods = length // period + 1
        if periods > best.periods:
            best = Pattern(len(kinds), first, period, periods)
    return best


def _lists_by_layer(config: Any) -> dict[str, list[Any] | tuple[Any, ...]]:
    """Settings with one entry for each layer; the numbers of all layers, such as llama4's moe_layers, are none."""
    text = config.get_text_config(decoder=True)
    depth = text.num_hidden_layers
    return {
        name: values
        for name, values in sorted(vars(text).items())
        if isinstance(values, list | tuple) and len(values) == depth and list(values) != list(range(depth))
    }


def _properties(layer: torch.nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in layer.named_modules():
        found[f"{path} class"] = type(module).__qualname__
        for name, value in vars(module).items():
            if isinstance(value, bool | int | float | str | None):
                found[f"{path}.{name}"] = value if type(value) is int else repr(value)
    for name, weight in (*layer.named_parameters(), *layer.named_buffers()):
        found[name] = repr((tuple(weight.shape), weight.dtype, weight.requires_grad))
    return found
