"""Jobs without Slurm: worker processes on attempts that were made as a batch script makes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.records.request import Result
from clusterlm.runs.attempt import ATTEMPT, Attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.launch import prepare
from clusterlm.spec import GenerateSpec, make_spec
from clusterlm.store import find_model
from clusterlm.worker.__main__ import main
from clusterlm.worker.signals import ASKING_TO_STOP

SECONDS_TO_END = 60
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Several processes on few cores: with a thread for every core each they would mostly wait for each other."""


def prepared(model: Path, prompts: Path, output: Path, **settings: Any) -> RunFolder:
    """The run that `clusterlm generate` would make."""
    spec = make_spec(GenerateSpec, {"model": str(model), "input": str(prompts), "output": str(output), **settings})
    return prepare(spec, lambda: find_model(str(model)), restart=False).run


def attempt(run: RunFolder, shard: int = 0, shards: int = 1, ends: float | None = None) -> Attempt:
    """A new one, as `clusterlm job begin` makes it."""
    path = run.new_attempt()
    made = Attempt(path=path, began=time.time(), job=path.name, shard=shard, shards=shards, ends=ends)
    made.write()
    return made


STARTED: list[subprocess.Popen[str]] = []


@dataclass
class Worker:
    """The process or, under torchrun, the processes that work on one attempt."""

    attempt: Attempt
    process: subprocess.Popen[str]

    def results(self) -> list[int]:
        """Indices of the records that it has finished."""
        return [index for file in self.attempt.path.glob("results*.jsonl") for index in indices_in(file)]

    def wait_for_results(self, number: int = 1) -> None:
        begun = time.monotonic()
        while len(self.results()) < number:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() - begun < SECONDS_TO_END
            time.sleep(0.02)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """The exit status and what it said, after a signal where one is given."""
        if number is not None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=SECONDS_TO_END)
        return self.process.returncode, said


def worker(run: RunFolder, made: Attempt, ranks: int = 1, environment: Mapping[str, str] = ONE_THREAD) -> Worker:
    command = [sys.executable, "-m", "clusterlm.worker", str(run.path)]
    if ranks > 1:
        torchrun = ["torch.distributed.run", "--standalone", "--max-restarts=0", f"--nproc-per-node={ranks}", "-m"]
        command[2:2] = torchrun
    variables = {**os.environ, **environment, ATTEMPT: str(made.path)}
    process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)
    STARTED.append(process)
    return Worker(made, process)


def work_here(run: RunFolder, made: Attempt) -> int:
    """The exit status of a worker in this process: quicker than one that must import torch again."""
    handlers = {number: signal.getsignal(number) for number in ASKING_TO_STOP}
    os.environ[ATTEMPT] = str(made.path)
    try:
        return main([str(run.path)])
    finally:
        del os.environ[ATTEMPT]
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_all() -> None:
    """What a test that failed has left."""
    while STARTED:
        with STARTED.pop() as process:
            if process.poll() is None:
                process.terminate()  # torchrun ends its ranks
                process.communicate()


def ranks_of(started: Worker) -> list[int]:
    """Process ids of the ranks that torchrun started, the first rank first."""
    own = started.process.pid
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    found = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(one[5:]): child for one in variables if one.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


def indices_in(file: Path) -> list[int]:
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []  # behind the last newline: a torn line
    return [Result.from_json(line).index for line in lines]


def all_results(run: RunFolder) -> list[int]:
    return sorted(index for file in run.result_files() for index in indices_in(file))


def outcome(made: Attempt, rank: int = 0) -> dict[str, Any]:
    return dict(json.loads(made.file("outcome.json", rank).read_bytes()))
