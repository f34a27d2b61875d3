"""A trace in a process of its own: for the command line, which must not load torch. Loads no torch itself."""

from __future__ import annotations

import json
import subprocess
import sys

from clusterlm.errors import ModelError, UsageError
from clusterlm.worker.trace.cache import kept_trace
from clusterlm.worker.trace.request import Trace, TraceRequest

COMMAND = (sys.executable, "-m", "clusterlm.worker.trace")


def trace_apart(request: TraceRequest) -> Trace:
    """From the cache, or by `python -m clusterlm.worker.trace`; its errors are raised here as they were there."""
    if (kept := kept_trace(request)) is not None:
        return kept
    ended = subprocess.run(COMMAND, input=json.dumps(request.to_json()), capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return Trace.from_json(json.loads(ended.stdout))
    _, found, said = f"\n{ended.stderr}".rpartition("\nerror: ")
    if not found:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise ModelError(f"the trace ended with exit code {ended.returncode}: {last}")
    problem, _, hint = said.strip().partition("\nhint: ")
    raise (UsageError if ended.returncode == UsageError.exit_code else ModelError)(problem, hint=hint or None)
