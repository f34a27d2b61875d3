"""One request traced: which models are built, which steps they take, what is read off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from clusterlm.errors import ClusterlmError, ModelError
from clusterlm.worker.trace import build, steps
from clusterlm.worker.trace.blindfold import blindfold
from clusterlm.worker.trace.cache import library_versions
from clusterlm.worker.trace.extrapolate import History, NotAlignedError, extrapolated_peaks
from clusterlm.worker.trace.pattern import find_pattern, layer_kinds, shallow_config
from clusterlm.worker.trace.request import Segment, Trace, TraceRequest
from clusterlm.worker.trace.sharding import imaginary_ranks, shard
from clusterlm.worker.trace.storage import StorageTracker
from clusterlm.worker.trace.watch import watch_modules

EDGE_LAYERS = 1
"""The first layer differs from the others where its input needs no gradient; the last one where its output is kept."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one traced model gave."""

    static_bytes: int
    segments: list[Segment]


def trace_request(request: TraceRequest) -> Trace:
    begun = time.monotonic()
    config = build.read_config(request.config)
    model = build.build_on_meta(request, config)
    weights = list(model.parameters())
    parameters = sum(weight.numel() for weight in weights)
    trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
    found = None if request.exact else _extrapolated(model, config, request)
    static_bytes, phases, traced_layers = found or _exact(model, config, request)
    phase_of_peak = max(phases, key=lambda phase: phases[phase])
    return Trace(
        static_bytes=static_bytes,
        parameters=parameters,
        trainable=trainable,
        phases=phases,
        peak_bytes=phases[phase_of_peak],
        phase_of_peak=phase_of_peak,
        traced_layers=traced_layers,
        attention=build.transformer(model).config._attn_implementation,
        experts=build.experts_implementation(model),
        seconds=round(time.monotonic() - begun, 3),
        versions=library_versions(),
    )


def request_timeline(request: TraceRequest) -> list[Segment]:
    config = build.read_config(request.config)
    return run_fake(build.build_on_meta(request, config), request).segments


def run_fake(model: Any, request: TraceRequest) -> Run:
    """The steps of a model that was built on meta; nothing is computed."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with blindfold(), imaginary_ranks(request.fsdp_ranks), fake, _said_by_name(model):
        build.fill(model)
        return run_steps(model, request)


def run_steps(model: Any, request: TraceRequest) -> Run:
    """The steps of a model whose tensors have storages, fake or real."""
    build.prepare(model, request)
    if request.fsdp_ranks > 1:
        shard(model, request)
    tracker = StorageTracker()
    tracker.count(build.tensors(model))
    static_bytes = tracker.live_bytes
    watch_modules(model, tracker)
    with tracker, tracker.watching_resizes():
        steps.run_steps(model, request, tracker)
    return Run(static_bytes, tracker.segments)


def peaks(segments: list[Segment]) -> dict[str, int]:
    """By phase, in the order of the phases."""
    found: dict[str, int] = {}
    for segment in segments:
        found[segment.phase] = max(found.get(segment.phase, 0), segment.peak_bytes)
    return found


Found = tuple[int, dict[str, int], tuple[int, ...]]
"""Static bytes, peaks by phase, and the depths of the models that they come from."""


def _exact(model: Any, config: Any, request: TraceRequest) -> Found:
    run = run_fake(model, request)
    return run.static_bytes, peaks(run.segments), (config.get_text_config(decoder=True).num_hidden_layers,)


def _extrapolated(model: Any, config: Any, request: TraceRequest) -> Found | None:
    """None where the model has no pattern."""
    kinds = layer_kinds(model, config)
    if kinds is None or (pattern := find_pattern(kinds, EDGE_LAYERS)) is None:
        return None
    fewest = pattern.fewest_periods(EDGE_LAYERS)
    runs, histories = [], []
    for periods in (fewest, fewest + 1):
        kept = pattern.kept(periods)
        settings = shallow_config(config, kept)
        shallow = build.build_on_meta(request, settings)
        # A setting that names layers by number, such as an adapter's target, may not be carried over.
        if layer_kinds(shallow, settings) != [kinds[layer] for layer in kept]:
            return None
        runs.append(run_fake(shallow, request))
        histories.append(History([kinds[layer] for layer in kept], runs[-1].segments))
    try:
        found = extrapolated_peaks(histories[0], histories[1], pattern.periods - fewest - 1, EDGE_LAYERS)
    except NotAlignedError:
        return None
    per_period = runs[1].static_bytes - runs[0].static_bytes
    static_bytes = runs[1].static_bytes + per_period * (pattern.periods - fewest - 1)
    return static_bytes, found, tuple(len(history.kinds) for history in histories)


@contextmanager
def _said_by_name(model: Any) -> Iterator[None]:
    """What a model does with fake tensors that it cannot do becomes one sentence with the model's name."""
    try:
        yield
    except ClusterlmError:
        raise
    except Exception as problem:
        kind = build.transformer(model).config.model_type
        adapted = ", ".join(build.adapted_of_their_own(model))
        hint = f"{adapted} may be what PEFT cannot adapt: name the other layers in lora_targets" if adapted else None
        raise ModelError(f"cannot be traced: {build.first_line(problem)}", where=kind, hint=hint) from problem
