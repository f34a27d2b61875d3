"""What clusterlm adds to Slurm's own time for the smallest run: python -m benchmarks.trivial_job MODEL [ROUNDS]

On a cluster's login node; `eval "$(clusterlm lab start)"` makes one. Interleaved: (a) `sbatch` of a script that does
nothing, until Slurm says COMPLETED; (b) a Python that imports torch and transformers, as any such job must; (c)
`clusterlm generate` of one prompt with one token, from the command to the finished run. What c takes beyond a and b is
clusterlm.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 120
LOOKS_PER_SECOND = 10


def until(done: str, *command: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while done not in subprocess.run(command, check=True, capture_output=True, text=True).stdout:
        if time.monotonic() > deadline:
            raise SystemExit(f"{command} does not say {done} in {LIMIT_SECONDS} s")
        time.sleep(1 / LOOKS_PER_SECOND)


def plain(folder: Path, number: int) -> None:
    command = ("sbatch", "--parsable", "--gpus-per-node=1", f"--output={folder / 'plain.out'}", "--wrap", "true")
    job = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.strip()
    until("COMPLETED", "squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")


def imports(folder: Path, number: int) -> None:
    subprocess.run((sys.executable, "-c", "import torch, transformers.models.llama.modeling_llama"), check=True)


def ours(folder: Path, number: int) -> None:
    prompts, output = folder / "prompts.txt", folder / f"answers-{number}.jsonl"
    prompts.write_text("The value of\n")
    settings = ("--max-new-tokens", "1", "--on", "auto", "--gpus", "1")
    command = ("clusterlm", "generate", sys.argv[1], str(prompts), "-o", str(output), *settings)
    subprocess.run(command, check=True, capture_output=True)
    while not Path(f"{output}.run", "finished.json").exists():
        time.sleep(1 / LOOKS_PER_SECOND)
    assert json.loads(output.read_text())["error"] is None


def main(rounds: int) -> None:
    ways = {"sbatch of nothing": plain, "import torch, transformers": imports, "clusterlm generate": ours}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            for label, way in ways.items():
                begun = time.perf_counter()
                way(Path(name), number)
                seconds[label].append(time.perf_counter() - begun)
    rest = [whole - slurm - load for slurm, load, whole in zip(*seconds.values(), strict=True)]
    seconds["beyond Slurm and the imports"] = rest
    for label, found in seconds.items():
        print(f"{label:28} median {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[2]) if len(sys.argv) > 2 else 5)
