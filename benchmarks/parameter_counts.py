"""Every model of a list: its parameters from config.json's sizes alone, beside the count that its authors publish.

python -m benchmarks.parameter_counts [FILE]: FILE has one model id a line; the default is what the tests plan.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clusterlm.errors import ClusterlmError
from clusterlm.model.catalogue import catalogue_id, merged, published_parameters
from clusterlm.model.find import find_model

TO_PLAN = Path(__file__).parent.parent / "tests" / "unit" / "models_to_plan.txt"


def line_of(name: str) -> str:
    try:
        counted = find_model(name).parameters
    except ClusterlmError as problem:
        return f"{name:55}  refused: {problem.problem}"
    published = published_parameters(name)
    known = catalogue_id(name)
    note = merged(known).get("parameters_note", "") if known else ""
    if published is None:
        return f"{name:55} {counted:>17,}  {'no published count':>17}  {note}"
    beside = "equal" if counted == published else f"{counted - published:+,}"
    return f"{name:55} {counted:>17,} {published:>17,}  {beside}  {note}"


def main() -> int:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else TO_PLAN
    names = [line for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    print(f"{'model':55} {'counted':>17} {'published':>17}")
    for name in names:
        print(line_of(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
