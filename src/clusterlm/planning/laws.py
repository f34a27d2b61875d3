"""The learned laws of memory: live bytes through a step of transformers' own code, for a model of any size.

laws/ARCHITECTURE.json holds, for each structure and setup, the regions of a step in their order: how far live bytes
rise in a region (the highest of a few sums of sizes) and by how much they have changed after it. Coefficients are bytes
for each element of a size of planning/sizes.py, read off traced steps by worker/trace/learn.py; versions stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from clusterlm.model.shape import ModelShape
from clusterlm.planning.sizes import Sizes, Step, kind_of, layer_sizes, outside_sizes, structure_of, text_architecture

GRADIENT_WORDS = ("weights", "adapter", "vector", "table", "position", "hidden", "vocabulary", "other")
"""Sizes that begin so are those of parameters."""
WALKED = 3
"""Layers at each end of equal ones that follow each other: between them memory rises or falls evenly, so that it is
highest at an end. As many as FSDP2 deals with at once: the one before, this one, the one that is gathered ahead."""


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


class Moment(NamedTuple):
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
    highest: dict[str, float]
    """That as a sum of sizes."""
    layer: int
    """Its number, where the place is a layer."""

    @property
    def formula(self) -> str:
        return in_words(self.highest)

    @property
    def bytes(self) -> float:
        return self.kept + self.gradients + self.working


@dataclass(frozen=True, eq=False)
class Law:
    """What a structure of models keeps at each moment of a step, as sums of its sizes."""

    structure: str
    example: str
    versions: dict[str, str]
    setup: dict[str, Any]
    exact: bool
    """False where the law of the nearest structure of this architecture stands in."""


@dataclass(frozen=True)
class Entry:
    """One structure's line of a file; of its setups only those that are asked for are parsed."""

    structure: str
    example: str
    versions: dict[str, str]
    setups: str

    def has(self, key: str) -> bool:
        return f'"{key}":' in self.setups

    def setup(self, key: str) -> dict[str, Any]:
        name = f'"{key}":'
        found: dict[str, Any] = json.JSONDecoder().raw_decode(self.setups, self.setups.index(name) + len(name))[0]
        return found


@cache
def find_law_of(architecture: str, structure: str, key: str) -> Law | None:
    """The law of this structure; else of the nearest one of the architecture that has the setup; else None."""
    entries = [one for one in _entries_of(architecture) if one.has(key)]
    if not entries:
        return None
    found = max(entries, key=lambda one: _likeness(structure, one.structure))
    return Law(found.structure, found.example, found.versions, found.setup(key), exact=found.structure == structure)


def find_law(shape: ModelShape, setup: Setup) -> Law | None:
    """None where nothing was learned of this architecture in this setup."""
    return find_law_of(text_architecture(shape), structure_of(shape), setup.key)


@lru_cache(maxsize=64)
def nearest_law(shape: ModelShape, setup: Setup) -> Law | None:
    """The law of the setup; else the nearest that was learned of this architecture, marked as not its own."""
    law = find_law(shape, setup)
    if law is not None:
        return law
    stand_ins = [replace(setup, mask="none")]
    if setup.method.startswith("lora"):
        # Adapters of all matrices keep more than those of some; without autocast adapters compute in float32.
        methods, dtypes = (setup.method, "lora"), (setup.dtype, setup.dtype.replace("autocast", "bfloat16"))
        stand_ins += [
            replace(setup, method=method, dtype=dtype, mask=mask)
            for mask in (setup.mask, "none")
            for dtype in dtypes
            for method in methods
        ]
    found = next((law for one in stand_ins if (law := find_law(shape, one))), None)
    return replace(found, exact=False) if found else None


class _Rise(NamedTuple):
    """One region, evaluated: its highest, and what remains after it."""

    working: float
    highest: dict[str, float]
    kept: float
    gradients: float


@lru_cache(maxsize=64)
def moments(law: Law, shape: ModelShape, step: Step, phases: tuple[str, ...]) -> list[Moment]:
    """The highest point of every region of these phases, in order, but for WALKED."""
    found: list[Moment] = []
    outside = outside_sizes(shape, step)
    sizes_of = {id(layer): layer_sizes(shape, layer, step) for layer, _ in shape.counted_layers}
    kept = gradients = 0.0
    for region in law.setup["regions"]:
        phase = region["phase"]
        if phase not in phases:
            continue
        if "begin" in region:
            kept = _value(region["begin"], outside)
            continue
        backward = phase == "backward"
        if "layers" in region:
            place_of = "layer"
            rises = _rises_of_layers(region["layers"], shape, sizes_of, backward=backward)
        else:
            place_of, rises = region["event"], iter([(_rise(region, outside, backward=backward), range(1))])
        for rise, layers in rises:
            for number in layers if len(layers) <= 2 * WALKED else (*layers[:WALKED], *layers[-WALKED:]):
                passed = abs(number - layers[0])
                before = kept + passed * rise.kept, gradients + passed * rise.gradients
                found.append(Moment(phase, place_of, *before, rise.working, rise.highest, number))
            kept, gradients = kept + len(layers) * rise.kept, gradients + len(layers) * rise.gradients
    return found


def _rises_of_layers(
    laws: dict[str, Any], shape: ModelShape, sizes_of: dict[int, Sizes], *, backward: bool
) -> Iterator[tuple[_Rise, range]]:
    """In the order of the pass; equal layers at the same kind of place are evaluated once."""
    known: dict[tuple[str, int], _Rise] = {}
    runs = _runs(shape)
    for where, numbers in reversed(runs) if backward else runs:
        layer = shape.layers[numbers[0]]
        key = where, id(layer)
        if key not in known:
            own = _law_of_layer(laws, where, kind_of(layer))
            known[key] = _rise(own, sizes_of[id(layer)], backward=backward)
        yield known[key], numbers[::-1] if backward else numbers


@lru_cache(maxsize=64)
def _runs(shape: ModelShape) -> list[tuple[str, range]]:
    """Equal layers that follow each other at the same kind of place, by their numbers."""
    depth = len(shape.layers)
    alike = groupby(range(depth), key=lambda number: (place(number, depth), id(shape.layers[number])))
    runs = [(where, list(numbers)) for (where, _), numbers in alike]
    return [(where, range(numbers[0], numbers[-1] + 1)) for where, numbers in runs]


def _rise(own: dict[str, Any], sizes: Sizes, *, backward: bool) -> _Rise:
    working, highest = max(((_value(peak, sizes), peak) for peak in own["peaks"]), key=itemgetter(0), default=(0.0, {}))
    kept, gradients = _change(own["after"], sizes, backward=backward)
    return _Rise(max(working, 0.0), highest, kept, gradients)


def kept_formula(law: Law) -> str:
    """What an inner layer leaves behind in the forward pass."""
    for region in law.setup["regions"]:
        if region["phase"] in ("forward", "prefill") and "layers" in region:
            inner = {key: own for key, own in region["layers"].items() if key.startswith("inner")}
            return "; ".join(f"{key.split(': ')[1]} layer: {in_words(own['after'])}" for key, own in inner.items())
    return ""


def in_words(law: dict[str, float]) -> str:
    """`tokens x (16 hidden + 8 gate_proj) B + 2 weights q_proj B`."""
    return _in_words(tuple(law.items()))


@cache
def _in_words(law: tuple[tuple[str, float], ...]) -> str:
    groups: dict[str, list[str]] = {}
    for name, number in sorted(law, key=lambda item: -abs(item[1])):
        factor, _, size = name.partition(" ")
        shown = size.removeprefix("out ").rsplit(".", 1)[-1] if size else ""
        groups.setdefault(factor if size else "", []).append(f"{number:g} {shown or factor}")
    return " + ".join(
        f"{factor} x ({' + '.join(terms)}) B" if factor else f"({' + '.join(terms)}) B"
        for factor, terms in groups.items()
    ).replace("+ -", "- ")


def place(index: int, depth: int) -> str:
    """Layers at the ends differ from those between: what comes before the first needs no gradient, say."""
    if index == 0:
        return "first"
    if index == depth - 1:
        return "last"
    return "second" if index == 1 else "inner"


def _change(after: dict[str, float], sizes: Sizes, *, backward: bool) -> tuple[float, float]:
    """What remains after the region: of activations, and of gradients."""
    names = [name for name in after if _of_parameters(name)] if backward else []
    gradient = sum(after[name] * sizes.get(name, 0.0) for name in names)
    return _value(after, sizes) - gradient, gradient


@cache
def _of_parameters(size: str) -> bool:
    return size.split()[0] in GRADIENT_WORDS


def _value(law: dict[str, float], sizes: Sizes) -> float:
    return sum([number * sizes.get(name, 0.0) for name, number in law.items()])


def _law_of_layer(laws: dict[str, Any], where: str, kind: str) -> dict[str, Any]:
    """At its place; else a layer of this kind further in; else any layer there."""
    for key in (f"{where}: {kind}", *(f"{other}: {kind}" for other in ("inner", "second", "last", "first"))):
        if key in laws:
            found: dict[str, Any] = laws[key]
            return found
    return next(iter(laws.values()))


@cache
def _entries_of(architecture: str) -> list[Entry]:
    """A line is an entry: `{"structure": ..., "example": ..., "versions": ..., "setups": {NAME: {...}, ...}}`."""
    file = Path(__file__).parent / "laws" / f"{architecture}.json"
    if not file.is_file():
        return []
    lines = (line.strip("[],\n") for line in file.read_text(encoding="utf-8").splitlines())
    return [_entry(line) for line in lines if line]


def _entry(line: str) -> Entry:
    head, _, setups = line.partition(',"setups":')
    return Entry(**json.loads(f"{head}}}"), setups=setups)


def _likeness(one: str, other: str) -> int:
    mine, others = set(one.split("; ")), set(other.split("; "))
    return len(mine & others)
