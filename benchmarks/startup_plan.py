"""How long `clusterlm plan` takes, beside what `accelerate estimate-memory` does, in turn; medians of whole processes.

python -m benchmarks.startup_plan [--runs 7] [--model meta-llama/Llama-3.1-8B] [--save FILE]

The peer's own command needs the hub (it refuses a local folder), so its two steps are run as it runs them, with its own
functions: the model class on the meta device from the same config.json, then calculate_maximum_sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clusterlm.model.catalogue import catalogue_config

PEER = """
import sys
from accelerate import init_empty_weights
from accelerate.utils import calculate_maximum_sizes
import torch
from transformers import AutoConfig, AutoModel
config = AutoConfig.from_pretrained(sys.argv[1])
with init_empty_weights():
    model = AutoModel.from_config(config, torch_dtype=torch.float32)
total, largest = calculate_maximum_sizes(model)
print(total, largest[0])
"""
CLUSTERLM, ACCELERATE, PYTHON = "clusterlm plan", "accelerate estimate-memory", "python -c pass"
ON_CLUSTERS = ("lumi", "snellius")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B")
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(catalogue_config(asked.model)))
        lines = report(asked.model, measured(Path(folder), asked.runs), asked.runs)
    print("\n".join(lines))
    if asked.save:
        asked.save.write_text("\n".join(lines) + "\n")


def measured(folder: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each process; the first round warms the caches and is left out."""
    plan = [sys.executable, "-m", "clusterlm", "plan", str(folder), "--gpu", "h200"]
    commands = {
        PYTHON: [sys.executable, "-c", "pass"],
        CLUSTERLM: [*plan, "--method", "lora", "--micro-batch", "4"],
        **{f"{CLUSTERLM} --on {name}": on_cluster(folder, name) for name in ON_CLUSTERS},
        ACCELERATE: [sys.executable, "-W", "ignore", "-c", PEER, str(folder)],
    }
    # Compiled modules are kept, as on any machine where a command runs twice.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(runs + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def on_cluster(folder: Path, name: str) -> list[str]:
    """All ways to train there, ranked."""
    return [sys.executable, "-m", "clusterlm", "plan", str(folder), "--on", name, "--method", "lora"]


def report(model: str, seconds: dict[str, list[float]], runs: int) -> list[str]:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    machine = f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    conditions = f"{machine}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    return [
        f"{model}; {conditions}; medians of {runs}, in turn (least to most)",
        *(
            f"{name:28} {median:6.3f} s ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})"
            for name, median in medians.items()
        ),
        f"clusterlm plan is {medians[ACCELERATE] / medians[CLUSTERLM]:.1f} x as fast as accelerate estimate-memory",
    ]


if __name__ == "__main__":
    main()
