"""How long `clusterlm runs list` takes with many runs: python -m benchmarks.runs_list [RUNS]

Beside it, in the same minute: one squeue, and submitit's way of a question for each job, where Slurm is here.
Run folders are made as a submit and a job make them, a third of them finished, each with three attempts.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clusterlm.runs import journal
from clusterlm.runs.attempt import Attempt, write_json
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.submission import Submission

ROUNDS = 7


def make_run(folder: Path, number: int) -> None:
    run = RunFolder(folder / f"answers-{number}.jsonl.run")
    run.path.mkdir()
    spec = {"task": "generate", "model": "m", "input": "i.jsonl", "output": str(folder / f"answers-{number}.jsonl")}
    asked = {
        "spec": spec,
        "model_name": "m",
        "requests": 3000,
        "created": "2026-11-21T12:00:00",
        "input_path": "i.jsonl",
    }
    write_json(run.path / "run.json", asked)
    Submission(cluster="here", model="m", shards=1, gpus=4, seconds=3600).write(run)
    journal.note(run.journal, "submitted", "job is queued", job=str(9_000_000 + number))
    for count in range(1, 4):
        attempt = Attempt(path=run.new_attempt(), began=time.time() - 3600, job=str(9_000_000 + number), gpus=4)
        attempt.write()
        journal.note(attempt.journal, "started", "works on node1", job=attempt.job)
        progress = {
            "requests": 3000,
            "done": 900 * count,
            "failed": 0,
            "new_results": 900,
            "new_tokens": 9000,
            "seconds": 1,
        }
        write_json(attempt.file("progress.json"), progress)
        (attempt.path / "results.jsonl").write_bytes(b"{}\n" * 900)
        if number % 3 == 0:
            journal.note(attempt.journal, "ended", "done; 900 new results", job=attempt.job, exit_status=0)
            write_json(run.path / "finished.json", {"finished": "now", **progress, "done": 3000})


def timed(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = name
        for number in range(runs):
            make_run(folder, number)
        (folder / "clusterlm").mkdir()
        listed = "".join(f"{path}\n" for path in sorted(folder.glob("*.run")))
        (folder / "clusterlm" / "runs.txt").write_text(listed)
        ours = ("clusterlm", "runs", "list", "--json")
        assert len(json.loads(subprocess.run(ours, check=True, capture_output=True).stdout)) == runs
        peers = {"clusterlm --version": ("clusterlm", "--version")}
        if shutil.which("squeue"):
            peers["one squeue"] = ("squeue", "--me")
        seconds: dict[str, list[float]] = {f"clusterlm runs list, {runs} runs": [], **{peer: [] for peer in peers}}
        for _ in range(ROUNDS):
            for label, command in {f"clusterlm runs list, {runs} runs": ours, **peers}.items():
                seconds[label].append(timed(*command))
    for label, found in seconds.items():
        print(f"{label:34} median {statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
