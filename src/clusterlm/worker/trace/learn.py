"""Reads the laws of memory off traced steps: every moment's live bytes as a sum of sizes, exact.

python -m clusterlm.worker.trace.learn ID...: for each model of the catalogue, small models of its structure take real
steps on real (tiny) tensors; the live bytes after every operation, at the same operation of models of many sizes, are
a linear function of the sizes of planning/sizes.py. Its coefficients are bytes for each element: small whole numbers.
Of a region's many moments those are kept that are the highest for some model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch

from clusterlm.errors import ClusterlmError, ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config, catalogue_names
from clusterlm.model.shape import ModelShape
from clusterlm.planning.laws import Setup, place
from clusterlm.planning.sizes import Sizes, Step, kind_of, layer_sizes, outside_sizes, structure_of
from clusterlm.worker.trace import build, steps
from clusterlm.worker.trace.cache import library_versions
from clusterlm.worker.trace.request import ALL_LINEAR, TraceRequest
from clusterlm.worker.trace.small import Dice, shallow
from clusterlm.worker.trace.storage import StorageTracker
from clusterlm.worker.trace.sums import Law, NotLinearError, basis, highest, laws, table_of
from clusterlm.worker.trace.watch import watch_modules

SPARE_EXAMPLES = 4
MOST_EXAMPLES = 120


@dataclass
class Region:
    """A stretch of a step: around the layers, or of one layer."""

    phase: str
    event: str
    layer: int | None
    lives: list[int]
    """Live bytes as it begins, and after each operation."""


class Recorder(StorageTracker):
    """Keeps the live bytes after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.regions: list[Region] = []

    def phase(self, name: str | None, event: str = "start") -> None:
        super().phase(name, event)
        self._begin(event, None)

    def event(self, event: str, layer: int | None = None) -> None:
        super().event(event, layer)
        self._begin(event, layer)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = super().__torch_dispatch__(function, types, arguments, named)
        if self.regions:
            self.regions[-1].lives.append(self.live_bytes)
        return result

    def _begin(self, event: str, layer: int | None) -> None:
        phase = self._running.phase or "outside"
        last = self.regions[-1] if self.regions else None
        if event.startswith("after layer"):
            return
        if last and (last.phase, last.event, last.layer) == (phase, event, layer):
            return
        self.regions.append(Region(phase, event, layer, [self.live_bytes]))


@dataclass
class Example:
    """One small model's step: its sizes, and its regions."""

    shape: ModelShape
    request: TraceRequest
    base_bytes: int
    """Weights, which planning computes itself."""
    regions: list[Region]

    @property
    def form(self) -> tuple[Any, ...]:
        """Two examples of one form went through the same operations."""
        return tuple((region.phase, region.event, region.layer, len(region.lives)) for region in self.regions)

    def step_in(self, phase: str) -> Step:
        return step_of(self.request, decoding=phase == "decode")


def record(request: TraceRequest, shape: ModelShape) -> Example:
    """A real step of a model so small that it takes a moment."""
    model = build.build_here(request, build.read_config(request.config))
    build.prepare(model, request)
    parameters = {id(weight): weight.nbytes for weight in model.parameters()}
    base = sum(parameters.values())
    tracker = Recorder()
    tracker.count(build.tensors(model))
    watch_modules(model, tracker)
    with tracker:
        steps.run_steps(model, request, tracker)
    return Example(shape, request, base, [one for one in tracker.regions if one.phase != "optimizer"])


def supports_free_head(config: dict[str, Any]) -> bool:
    """Whether head size and hidden size are two sizes; if so, the counts agree where they differ."""
    drawn, tokens = Dice(config, 0, free_head=True, beyond_window=False).draw()
    try:
        request = TraceRequest(config=drawn, task="generate", sequence_tokens=tokens)
        model = build.build_on_meta(request, build.read_config(drawn))
        counted = sum(weight.numel() for weight in model.parameters())
        return shape_from_config(drawn, "small").parameters == int(counted)
    except Exception:  # noqa: BLE001 any failure says no
        return False


def examples(config: dict[str, Any], request: TraceRequest, *, beyond_window: bool) -> list[Example]:
    """As many as there are independent sizes, and some to check with."""
    small = shallow(config)
    free_head = supports_free_head(small)
    draws = [_drawn(small, request, seed, free_head, beyond_window) for seed in range(MOST_EXAMPLES)]
    wanted = max(_independent_sizes(draws), 10) + SPARE_EXAMPLES
    found: dict[tuple[Any, ...], list[Example]] = {}
    for asked, shape in draws:
        example = record(asked, shape)
        alike = found.setdefault(example.form, [])
        alike.append(example)
        if len(alike) >= wanted:
            return alike
    # An expert that no token chose takes fewer operations: such examples are rare, or there is no law.
    raise ModelError(f"{len(found)} different orders of operations", where=draws[0][1].architecture)


def _drawn(
    small: dict[str, Any], request: TraceRequest, seed: int, free_head: bool, beyond_window: bool
) -> tuple[TraceRequest, ModelShape]:
    dice = Dice(small, seed, free_head=free_head, beyond_window=beyond_window)
    drawn, tokens = dice.draw()
    asked = replace(
        request,
        config=drawn,
        batch=dice.random.randint(2, 5),
        sequence_tokens=tokens,
        new_tokens=1 if request.task == "train" else dice.random.randint(4, 9),
        lora_rank=dice.random.randint(2, 9),
    )
    return asked, shape_from_config(drawn, "small")


def step_of(request: TraceRequest, *, decoding: bool = False) -> Step:
    rank = request.lora_rank if request.method == "lora" else 0
    if decoding:
        seen = request.sequence_tokens + request.new_tokens - 1
        return Step(request.batch, 1, seen, rank, request.sequence_tokens)
    return Step(request.batch, request.sequence_tokens, request.sequence_tokens, rank)


def _independent_sizes(draws: list[tuple[TraceRequest, ModelShape]]) -> int:
    """The most that any region needs."""
    kinds = {kind_of(layer): index for index, layer in enumerate(draws[0][1].layers)}
    counts = []
    for decoding in (False, True) if draws[0][0].task == "generate" else (False,):
        steps = [(shape, step_of(asked, decoding=decoding)) for asked, shape in draws]
        tables = [[layer_sizes(shape, shape.layers[index], step) for shape, step in steps] for index in kinds.values()]
        tables.append([outside_sizes(shape, step) for shape, step in steps])
        counts += [len(basis(*table_of(table))) for table in tables]
    return max(counts)


def learn(config: dict[str, Any], setup: Setup, likely: Likely) -> dict[str, Any]:
    """The laws of all regions of one setup, in the order of execution."""
    found = examples(
        config, request_of(setup, shape_from_config(config, "large")), beyond_window=setup.mask == "window"
    )
    regions: list[dict[str, Any]] = []
    for index, region in enumerate(found[0].regions[:-1]):
        if region.phase == "outside":
            continue
        if index == 0 or found[0].regions[index - 1].phase == "outside":
            regions.append({"phase": region.phase, "begin": _law_of_beginning(found, index)})
        law = _law_of_region(found, index, likely)
        if region.layer is None:
            regions.append({"phase": region.phase, "event": region.event, **law})
            continue
        if not regions or "layers" not in regions[-1]:
            regions.append({"phase": region.phase, "layers": {}})
        layers = found[0].shape.layers
        key = f"{place(region.layer, len(layers))}: {kind_of(layers[region.layer])}"
        regions[-1]["layers"][key] = law
    for one in regions:
        if "layers" in one:
            one["layers"] = without_repeats(one["layers"])
    return {"regions": regions}


def without_repeats(layers: dict[str, Any]) -> dict[str, Any]:
    """A layer at an end that does as the inner ones of its kind needs no law of its own."""
    return {
        key: law
        for key, law in layers.items()
        if key.startswith("inner") or layers.get(f"inner: {key.partition(': ')[2]}") != law
    }


def _law_of_beginning(found: list[Example], index: int) -> Law:
    """Live bytes besides the weights as a phase begins that follows on nothing measured."""
    rows = [outside_sizes(each.shape, each.step_in(each.regions[index].phase)) for each in found]
    return laws(rows, numpy.array([[each.regions[index].lives[0] - each.base_bytes] for each in found]))[0]


def request_of(setup: Setup, shape: ModelShape) -> TraceRequest:
    return TraceRequest(
        config={},
        task="train" if setup.task == "train" else "generate",
        sequence_tokens=1,
        dtype="float32" if setup.weights_in_float32 else "bfloat16",
        autocast=setup.dtype == "autocast",
        padded=setup.mask == "padded",
        method="full" if setup.method == "full" else "lora",
        lora_targets=attention_modules(shape) if setup.method == "lora-attention" else ALL_LINEAR,
        gradient_checkpointing=setup.checkpointing,
        optimizer="sgd",
    )


def attention_modules(shape: ModelShape) -> tuple[str, ...]:
    """By the ends of their names."""
    names = [linear.name.split(".") for layer in shape.layers for linear in layer.linears]
    return tuple(sorted({name[-1] for name in names if name[0] == "attention"}))


def _law_of_region(found: list[Example], index: int, likely: Likely) -> dict[str, Any]:
    region = found[0].regions[index]
    moments = numpy.array(
        [
            [live - each.regions[index].lives[0] for live in each.regions[index].lives]
            + [each.regions[index + 1].lives[0] - each.regions[index].lives[0]]
            for each in found
        ]
    )
    if region.layer is None:
        rows = [outside_sizes(each.shape, each.step_in(region.phase)) for each in found]
        sizes = likely.outside
    else:
        rows = [layer_sizes(each.shape, each.shape.layers[region.layer], each.step_in(region.phase)) for each in found]
        sizes = likely.layers[kind_of(found[0].shape.layers[region.layer])]
    try:
        *peaks, after = laws(rows, moments)
    except NotLinearError as problem:
        where = f"{region.phase}, {region.event} {region.layer}, operation {problem.args[0]}"
        raise ModelError(f"{where}: {problem.args[1]:.1%} off every sum of sizes", where="law") from None
    return {"peaks": highest(peaks, [*rows, *sizes]), "after": after}


@dataclass
class Likely:
    """Sizes of real models and steps: where a peak must be right."""

    outside: list[Sizes]
    layers: dict[str, list[Sizes]]


def likely_sizes(shapes: Sequence[ModelShape]) -> Likely:
    steps = [Step(rows, tokens, tokens, rank) for rows in (1, 8) for tokens in (64, 2048, 65536) for rank in (8, 64)]
    layers: dict[str, list[Sizes]] = {}
    for shape in shapes:
        for layer in {kind_of(layer): layer for layer in shape.layers}.values():
            layers.setdefault(kind_of(layer), []).extend(layer_sizes(shape, layer, step) for step in steps)
    return Likely([outside_sizes(shape, step) for shape in shapes for step in steps], layers)


SETUPS = (
    *(
        Setup("train", method, checkpointing, dtype)
        for method in ("full", "lora")
        for checkpointing in (True, False)
        for dtype in ("bfloat16", "float32", "autocast")
    ),
    *(Setup("generate", dtype=dtype, mask=mask) for dtype in ("bfloat16", "float32") for mask in ("none", "padded")),
)


MORE_SETUPS = tuple(
    Setup("train", "lora-attention", checkpointing, dtype)
    for checkpointing in (True, False)
    for dtype in ("bfloat16", "float32", "autocast")
)


def setups_of(shape: ModelShape, more: bool, without: Sequence[str]) -> list[Setup]:
    """With those of rows longer than a window, where there is one."""
    windowed = any("window" in kind_of(layer) for layer in shape.layers)
    halves = [setup for setup in SETUPS if setup.mask == "none" and setup.dtype != "float32"]
    beyond = [replace(setup, mask="window") for setup in halves] if windowed else []
    everything = (*SETUPS, *beyond, *(MORE_SETUPS if more else ()))
    return [setup for setup in everything if not set(setup.key.split()) & set(without)]


def learn_structure(
    name: str, alike: Sequence[ModelShape], known: dict[str, Any], wanted: Sequence[Setup]
) -> dict[str, Any]:
    """All setups of the structure that the catalogue's model `name` has; those that cannot run are left out."""
    config = text_config(name)
    shape = shape_from_config(config, name)
    likely = likely_sizes([shape, *alike])
    setups = dict(known)
    for setup in wanted:
        if setup.key in known:
            continue
        try:
            setups[setup.key] = learn(config, setup, likely)
        except Exception as problem:  # noqa: BLE001 each model class raises its own
            sys.stderr.write(f"{name}, {setup.key}: {build.first_line(problem)}\n")
    return {
        "structure": structure_of(shape),
        "example": Path(name).stem if name.endswith(".json") else name,
        "versions": library_versions(),
        "setups": setups,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m clusterlm.worker.trace.learn", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="ID", help="models of the catalogue, or config.json files")
    parser.add_argument("--folder", type=Path, required=True, help="where ARCHITECTURE.json are kept")
    parser.add_argument("--more", action="store_true", help="adapters of the attention alone, too")
    parser.add_argument("--without", action="append", default=[], metavar="WORD", help="leave out setups: window, ...")
    parser.add_argument("--anew", action="store_true", help="learn again what is known already")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    everything = _catalogue_shapes()
    for name in chosen.names:
        content = text_config(name)
        shape = shape_from_config(content, name)
        structure = structure_of(shape)
        file = chosen.folder / f"{content['model_type']}.json"
        known = {} if chosen.anew else known_setups(file, structure)
        alike = [one for one in everything if structure_of(one) == structure]
        keep(learn_structure(name, alike, known, setups_of(shape, chosen.more, chosen.without)), file)
    return 0


def text_config(name: str) -> dict[str, Any]:
    """From the catalogue, or a config.json; of a model with eyes its text model's."""
    content = json.loads(Path(name).read_text("utf-8")) if name.endswith(".json") else catalogue_config(name)
    if content is None:
        raise SystemExit(f"no such model in the catalogue: {name}")
    return dict(content.get("text_config", content))


def _catalogue_shapes() -> list[ModelShape]:
    found = []
    for name in catalogue_names():
        with suppress(ClusterlmError):
            found.append(shape_from_config(catalogue_config(name) or {}, name))
    return found


def known_setups(file: Path, structure: str) -> dict[str, Any]:
    """Those that were learned with the libraries installed now."""
    entries = json.loads(file.read_text("utf-8")) if file.exists() else []
    versions = library_versions()
    return next(
        (dict(one["setups"]) for one in entries if one["structure"] == structure and one["versions"] == versions), {}
    )


def keep(entry: dict[str, Any], file: Path) -> None:
    """Replaces what the file had of this structure."""
    others = json.loads(file.read_text("utf-8")) if file.exists() else []
    kept = [one for one in others if one["structure"] != entry["structure"]]
    entries = sorted([*kept, entry], key=lambda one: str(one["structure"]))
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in entries)
    file.write_text(f"[{lines}]\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
