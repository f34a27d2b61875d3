"""One request traced: which models are built, which steps they take, what is read off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from clusterlm.errors import ModelError
from clusterlm.worker.trace import build, steps
from clusterlm.worker.trace.blindfold import blindfold
from clusterlm.worker.trace.request import Segment, Trace, TraceRequest
from clusterlm.worker.trace.storage import StorageTracker
from clusterlm.worker.trace.watch import watch_modules

LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Run:
    """What one traced model gave."""

    static_bytes: int
    segments: list[Segment]


def trace_request(request: TraceRequest) -> Trace:
    begun = time.monotonic()
    config = build.read_config(request.config)
    model = build.build_on_meta(request, config)
    parameters = sum(weight.numel() for weight in model.parameters())
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    attention = build.transformer(model).config._attn_implementation
    experts = build.experts_implementation(model)
    run = run_fake(model, request)
    phases = peaks(run.segments)
    phase_of_peak = max(phases, key=lambda phase: phases[phase])
    return Trace(
        static_bytes=run.static_bytes,
        parameters=parameters,
        trainable=trainable,
        phases=phases,
        peak_bytes=phases[phase_of_peak],
        phase_of_peak=phase_of_peak,
        traced_layers=(config.get_text_config(decoder=True).num_hidden_layers,),
        attention=attention,
        experts=experts,
        seconds=round(time.monotonic() - begun, 3),
        versions=library_versions(),
    )


def request_timeline(request: TraceRequest) -> list[Segment]:
    config = build.read_config(request.config)
    return run_fake(build.build_on_meta(request, config), request).segments


def run_fake(model: Any, request: TraceRequest) -> Run:
    """The steps of a model that was built on meta; nothing is computed."""
    with blindfold(), FakeTensorMode(allow_non_fake_inputs=True), _said_by_name(model):
        build.fill(model)
        return run_steps(model, request)


def run_steps(model: Any, request: TraceRequest) -> Run:
    """The steps of a model whose tensors have storages, fake or real."""
    build.prepare(model, request)
    tracker = StorageTracker()
    tracker.count(build.tensors(model))
    static_bytes = tracker.live_bytes
    watch_modules(model, tracker)
    with tracker:
        steps.run_steps(model, request, tracker)
    return Run(static_bytes, tracker.segments)


def peaks(segments: list[Segment]) -> dict[str, int]:
    """By phase, in the order of the phases."""
    found: dict[str, int] = {}
    for segment in segments:
        found[segment.phase] = max(found.get(segment.phase, 0), segment.peak_bytes)
    return found


def library_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


@contextmanager
def _said_by_name(model: Any) -> Iterator[None]:
    """What a model does with fake tensors that it cannot do becomes one sentence with the model's name."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError, IndexError) as problem:
        kind = build.transformer(model).config.model_type
        raise ModelError(f"cannot be traced: {build.first_line(problem)}", where=kind) from problem
