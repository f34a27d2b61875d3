"""Many trainings of several processes, one behind the other: the libraries are imported once, each process is a fork.

`python -m tests.training.several LESSONS.json`, a list of {"processes": 2, "before": "code", settings of a TrainSpec}.
They start as torchrun starts them; each prints into OUTPUT.log, and their exit statuses go to OUTPUT.status.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

# Imported here for all: what takes seconds.
import accelerate
import deepspeed
import peft
import torch.distributed.checkpoint

import clusterlm.worker.training.job
from clusterlm.cli.models import find
from clusterlm.runs.launch import prepare
from clusterlm.runs.own_file import with_own_file
from clusterlm.spec import TrainSpec, make_spec
from clusterlm.worker.__main__ import main

IMPORTED = (accelerate, deepspeed, peft, torch, clusterlm)


def train(lesson: dict[str, Any]) -> None:
    processes, before = lesson.pop("processes"), lesson.pop("before", "")
    spec, _ = with_own_file(make_spec(TrainSpec, {**lesson, "gpus": processes}))
    run = prepare(spec, lambda: find(spec), restart=False).run
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(rank, processes, port, run.path, before, Path(f"{spec.output}.log")) for rank in range(processes)]
    status = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    Path(f"{spec.output}.status").write_text(json.dumps(status))


def _fork(rank: int, processes: int, port: int, run: Path, before: str, log: Path) -> int:
    child = os.fork()
    if child:
        return child
    place = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    exec(before, {})
    os._exit(main([str(run)]))


if __name__ == "__main__":
    for one in json.loads(Path(sys.argv[1]).read_text()):
        train(one)
