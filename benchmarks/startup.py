"""How long a login-node command takes, beside `python -c "import torch"`: in turn, medians of whole processes.

python -m benchmarks.startup [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "clusterlm --help": [sys.executable, "-m", "clusterlm", "--help"],
    "clusterlm --version": [sys.executable, "-m", "clusterlm", "--version"],
    "clusterlm generate --help": [sys.executable, "-m", "clusterlm", "generate", "--help"],
    "clusterlm runs list": [sys.executable, "-m", "clusterlm", "runs", "list"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first warms the caches
    for name, median in medians.items():
        print(f"{name:28} {median:6.3f} s; importing torch takes {medians['import torch'] / median:5.1f} x as long")


if __name__ == "__main__":
    main()
