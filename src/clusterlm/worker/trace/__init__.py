"""The memory referee: the real model class through a real step under fake tensors, every live byte counted.

No weights and no GPU: the tensors have sizes and no contents. Nothing here loads torch until a trace is made, so the
command line may import the words (TraceRequest, Trace) and start `python -m clusterlm.worker.trace` for the rest.
"""

from clusterlm.worker.trace.request import Segment, Trace, TraceRequest


def trace(request: TraceRequest) -> Trace:
    """Peak bytes by phase; ModelError where the installed transformers cannot build or trace the model."""
    from clusterlm.worker.trace.referee import trace_request

    return trace_request(request)


def timeline(request: TraceRequest) -> list[Segment]:
    """Live bytes inside every module call of interest, forward and backward, in the order of execution."""
    from clusterlm.worker.trace.referee import request_timeline

    return request_timeline(request)


__all__ = ["Segment", "Trace", "TraceRequest", "timeline", "trace"]
