"""The learned laws of memory: live bytes through a step of transformers' own code, for a model of any size.

laws/ARCHITECTURE.json holds, for each structure and setup, the regions of a step in their order: how far live bytes
rise in a region (the highest of a few sums of sizes) and by how much they have changed after it. Coefficients are bytes
for each element of a size of planning/sizes.py, read off traced steps by worker/trace/learn.py; versions stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from clusterlm.model.shape import Layer, ModelShape
from clusterlm.planning.sizes import Sizes, Step, kind_of, layer_sizes, outside_sizes, structure_of, text_architecture

GRADIENT_WORDS = ("weights", "adapter", "vector", "table", "position", "hidden", "vocabulary", "other")
"""Sizes that begin so are those of parameters."""
PLACES = ("first", "second", "inner", "last")


@dataclass(frozen=True)
class Setup:
    """What decides which operations run, besides the model's structure."""

    task: str
    method: str = "full"
    """full, lora (on all linear modules), or lora-attention (on those of the attention)."""
    checkpointing: bool = False
    dtype: str = "bfloat16"
    """bfloat16 (float16 is alike), float32, or autocast: computed in bfloat16, what is trained is kept in float32."""
    mask: str = "none"
    """padded: rows of unequal length; window: rows longer than the sliding window."""

    @property
    def weights_in_float32(self) -> bool:
        return self.dtype == "float32" or (self.dtype == "autocast" and self.method == "full")

    @property
    def key(self) -> str:
        words = [self.task, self.dtype]
        if self.task == "train":
            words[1:1] = [self.method, "checkpointing" if self.checkpointing else "saving"]
        return " ".join(words if self.mask == "none" else [*words, self.mask])


@dataclass(frozen=True)
class Moment:
    """The highest point of one region, in bytes above weights and optimizer states."""

    phase: str
    place: str
    """embedding, layer, final norm, head, loss ..."""
    kept: float
    """What earlier regions left: saved activations, the cache, less what was let go."""
    gradients: float
    """Gradients of parameters, as far as they are there."""
    working: float
    """What this region adds at its highest."""
    formula: str

    @property
    def bytes(self) -> float:
        return self.kept + self.gradients + self.working


@dataclass(frozen=True)
class Law:
    structure: str
    example: str
    versions: dict[str, str]
    setup: dict[str, Any]
    exact: bool
    """False where the law of the nearest structure of this architecture stands in."""


def find_law(shape: ModelShape, setup: Setup) -> Law | None:
    """The law of this structure; else of the nearest one of the architecture that has the setup; else None."""
    entries = [one for one in _laws_of(text_architecture(shape)) if setup.key in one["setups"]]
    if not entries:
        return None
    structure = structure_of(shape)
    entry = max(entries, key=lambda one: _likeness(structure, one["structure"]))
    return Law(
        entry["structure"], entry["example"], entry["versions"], entry["setups"][setup.key],
        exact=entry["structure"] == structure,
    )  # fmt: skip


def moments(law: Law, shape: ModelShape, step: Step, phases: tuple[str, ...]) -> Iterator[Moment]:
    """The highest point of every region of these phases, in order."""
    outside = outside_sizes(shape, step)
    sizes_of: dict[Layer, Sizes] = {}
    kept = gradients = 0.0
    for region in law.setup["regions"]:
        if region["phase"] not in phases:
            continue
        if "begin" in region:
            kept = _value(region["begin"], outside)
            continue
        for event, own, sizes in _parts(region, shape, step, outside, sizes_of):
            highest: dict[str, float] = max(own["peaks"], key=lambda peak: _value(peak, sizes), default={})
            working = max(_value(highest, sizes), 0.0)
            yield Moment(region["phase"], event, kept, gradients, working, in_words(highest))
            change, gradient = _change(own["after"], sizes, backward=region["phase"] == "backward")
            kept, gradients = kept + change, gradients + gradient


def kept_formula(law: Law) -> str:
    """What an inner layer leaves behind in the forward pass."""
    for region in law.setup["regions"]:
        if region["phase"] in ("forward", "prefill") and "layers" in region:
            inner = {key: own for key, own in region["layers"].items() if key.startswith("inner")}
            return "; ".join(f"{key.split(': ')[1]} layer: {in_words(own['after'])}" for key, own in inner.items())
    return ""


def in_words(law: dict[str, float]) -> str:
    """`tokens x (16 hidden + 8 gate_proj) B + 2 weights q_proj B`."""
    groups: dict[str, list[str]] = {}
    for name, number in sorted(law.items(), key=lambda item: -abs(item[1])):
        factor, _, size = name.partition(" ")
        shown = size.removeprefix("out ").rsplit(".", 1)[-1] if size else ""
        groups.setdefault(factor if size else "", []).append(f"{number:g} {shown or factor}")
    return " + ".join(
        f"{factor} x ({' + '.join(terms)}) B" if factor else f"({' + '.join(terms)}) B"
        for factor, terms in groups.items()
    ).replace("+ -", "- ")


def _parts(
    region: dict[str, Any], shape: ModelShape, step: Step, outside: Sizes, sizes_of: dict[Layer, Sizes]
) -> Iterator[tuple[str, dict[str, Any], Sizes]]:
    """The region itself, or the layers that it goes through."""
    if "layers" not in region:
        yield region["event"], region, outside
        return
    order = range(len(shape.layers))
    for index in reversed(order) if region["phase"] == "backward" else order:
        layer = shape.layers[index]
        if layer not in sizes_of:
            sizes_of[layer] = layer_sizes(shape, layer, step)
        yield "layer", _law_of_layer(region["layers"], place(index, len(order)), kind_of(layer)), sizes_of[layer]


def place(index: int, depth: int) -> str:
    """Layers at the ends differ from those between: what comes before the first needs no gradient, say."""
    if index == 0:
        return "first"
    if index == depth - 1:
        return "last"
    return "second" if index == 1 else "inner"


def _change(after: dict[str, float], sizes: Sizes, *, backward: bool) -> tuple[float, float]:
    """What remains after the region: of activations, and of gradients."""
    names = [name for name in after if backward and name.split()[0] in GRADIENT_WORDS]
    gradient = sum(after[name] * sizes.get(name, 0.0) for name in names)
    return _value(after, sizes) - gradient, gradient


def _value(law: dict[str, float], sizes: Sizes) -> float:
    return sum(number * sizes.get(name, 0.0) for name, number in law.items())


def _law_of_layer(laws: dict[str, Any], where: str, kind: str) -> dict[str, Any]:
    """At its place; else a layer of this kind further in; else any layer there."""
    for key in (f"{where}: {kind}", *(f"{other}: {kind}" for other in ("inner", "second", "last", "first"))):
        if key in laws:
            found: dict[str, Any] = laws[key]
            return found
    return next(iter(laws.values()))


@cache
def _laws_of(architecture: str) -> list[dict[str, Any]]:
    file = resources.files("clusterlm") / "planning" / "laws" / f"{architecture}.json"
    if not file.is_file():
        return []
    entries: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def _likeness(one: str, other: str) -> int:
    mine, others = set(one.split("; ")), set(other.split("; "))
    return len(mine & others)
