"""What a login node runs loads neither torch nor its family."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "accelerate", "peft", "trl", "datasets", "bitsandbytes", "deepspeed", "vllm"]
DEAR = ["pydantic", "numpy", "pandas", "difflib", "importlib.resources"]
"""What would be a good part of the 0.3 s that a plan may take."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["generate", "--help"],
        ["train", "--help"],
        ["chat", "--help"],
        ["runs", "list"],
        ["runs", "--help"],
        ["plan", "--help"],
        ["plan", "meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--method", "lora", "--explain"],
        ["plan", "meta-llama/Llama-3.1-70B", "--on", "lumi", "--method", "lora"],
    ],
)
def test_a_light_command_loads_nothing_heavy(arguments: list[str]) -> None:
    program = f"""
import sys
from clusterlm.cli.main import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert not ended.code, ended.code
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "LOADED []"


def test_a_plan_on_a_shipped_cluster_loads_nothing_dear() -> None:
    """pydantic takes longer to load than the plan to make; a user's own file alone is checked by it."""
    program = f"""
import sys
from clusterlm.cli.main import main
try:
    main(["plan", "gpt2", "--on", "lumi"])
except SystemExit as ended:
    assert not ended.code, ended.code
print("LOADED", [name for name in {DEAR!r} if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("module", ["clusterlm", "clusterlm.worker.demo_model"])
def test_importing_the_library_or_naming_the_demo_model_loads_nothing_heavy(module: str) -> None:
    program = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
