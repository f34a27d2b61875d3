"""`python -m clusterlm.worker.trace < request.json`: the Trace as one JSON object on standard output."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.worker.trace import TraceRequest, trace
from clusterlm.worker.trace.cache import keep, kept_trace


def main() -> int:
    try:
        request = TraceRequest.from_json(_read())
        answer = kept_trace(request)
        if answer is None:
            # Libraries that are loaded on the way print there, such as deepspeed.
            with redirect_stdout(sys.stderr):
                answer = trace(request)
            keep(request, answer)
    except ClusterlmError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return problem.exit_code
    sys.stdout.write(f"{json.dumps(answer.to_json())}\n")
    return 0


def _read() -> dict[str, object]:
    try:
        content = json.load(sys.stdin)
    except ValueError as problem:
        raise UsageError(f"is not JSON: {problem}", where="standard input") from None
    if not isinstance(content, dict):
        raise UsageError("is not a JSON object", where="standard input")
    return content


if __name__ == "__main__":
    sys.exit(main())
