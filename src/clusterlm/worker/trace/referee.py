"""One request traced: which models are built, which steps they take, what is read off."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from clusterlm.errors import ModelError
from clusterlm.worker.trace import build, steps
from clusterlm.worker.trace.blindfold import blindfold
from clusterlm.worker.trace.extrapolate import History, NotAlignedError, extrapolated_peaks
from clusterlm.worker.trace.pattern import Kind, Pattern, find_pattern, layer_kinds, shallow_config
from clusterlm.worker.trace.request import Segment, Trace, TraceRequest
from clusterlm.worker.trace.storage import StorageTracker
from clusterlm.worker.trace.watch import watch_modules


@dataclass(frozen=True, slots=True)
class Run:
    """What one traced model gave."""

    static_bytes: int
    parameters: int
    trainable: int
    attention: str
    experts: str | None
    segments: list[Segment]

    @property
    def phases(self) -> dict[str, int]:
        return peaks(self.segments)


def trace_request(request: TraceRequest) -> Trace:
    begun = time.monotonic()
    config = build.read_config(request.config)
    run = None if request.exact else _extrapolated(request, config)
    if run is None:
        pass
    return None
