"""The golden plans: the documents' machines x 12 models x every task, each reviewed by hand.

A change of the memory or the speed model moves them: `python -m tests.golden.plans`, then read the difference.
"""

from __future__ import annotations

import json

import pytest

from tests.golden.plans import FOLDER, MACHINES, MODELS, TASKS, golden


@pytest.mark.parametrize("machine", MACHINES)
def test_the_plans_are_those_that_were_reviewed(machine: str) -> None:
    kept = json.loads((FOLDER / f"{machine}.json").read_text(encoding="utf-8"))
    assert list(kept) == list(MODELS)
    for model in MODELS:
        assert list(kept[model]) == list(TASKS)
        found = golden(machine, model)
        changed = {task: (kept[model][task], found[task]) for task in TASKS if kept[model][task] != found[task]}
        assert not changed, f"{model}: python -m tests.golden.plans writes them anew"
