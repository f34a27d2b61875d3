"""The memory referee: the real model class through a real step under fake tensors, every live byte counted.

No weights and no GPU: the tensors have sizes and no contents. Nothing here loads torch until a trace is made, so the
command line may import the words (TraceRequest, Trace) and start `python -m clusterlm.worker.trace` for the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from clusterlm.errors import MissingPackage
from clusterlm.worker.trace.request import Segment, Trace, TraceRequest


def trace(request: TraceRequest) -> Trace:
    """Peak bytes by phase; ModelError where the installed libraries cannot build or trace the model."""
    with _needing_packages():
        from clusterlm.worker.trace.referee import trace_request
    return trace_request(request)


def timeline(request: TraceRequest) -> list[Segment]:
    """Live bytes inside every module call of interest, forward and backward, in the order of execution."""
    with _needing_packages():
        from clusterlm.worker.trace.referee import request_timeline
    return request_timeline(request)


@contextmanager
def _needing_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as problem:
        hint = "pip install 'clusterlm[run]'"
        raise MissingPackage(f"a trace needs the package {problem.name}, not installed here", hint=hint) from problem


__all__ = ["Segment", "Trace", "TraceRequest", "timeline", "trace"]
