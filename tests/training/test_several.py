"""Several processes on one machine behave as one does: memory, mistakes, what hangs, what is offloaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clusterlm.errors import UsageError
from clusterlm.spec import TrainSpec
from clusterlm.worker.training.strategies import strategy_of
from tests.training.lessons import losses, texts_file

ROOM_BYTES = 440 * 2**20
LITTLE_ROOM = f"""
import os
if "RANK" in os.environ:
    import re, resource
    import torch
    from clusterlm.worker.training import job
    torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)  # the threads and what they hold
    taken = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + {ROOM_BYTES},) * 2)
    from clusterlm.worker.training.watch.watchdog import Watchdog
    Watchdog.__init__.__defaults__ = (8.0,)
"""
"""Each process has so much beyond what its libraries take, so that real allocations fail; and waits 8 seconds."""


@pytest.mark.parametrize(
    ("strategy", "processes", "offload", "says"),
    [
        ("ddp", 2, "cpu", "ddp cannot do it\nhint: --strategy fsdp or zero1 or zero2 or zero3"),
        ("auto", 2, "cpu", "there is no GPU for FSDP to move anything from"),
        ("auto", 1, "optimizer-cpu", "single cannot do it\nhint: --strategy zero1 or zero2 or zero3"),
        ("fsdp", 2, "optimizer-cpu", "fsdp cannot do it\nhint: --strategy zero1"),
        ("fsdp", 2, "cpu", "there is no GPU for FSDP to move anything from"),
    ],
)
def test_what_cannot_leave_the_device_is_said_before_the_model_is_loaded(
    strategy: Any, processes: int, offload: Any, says: str
) -> None:
    spec = TrainSpec(model="m", input="i", output="o", strategy=strategy, offload=offload)
    with pytest.raises(UsageError) as told:
        strategy_of(spec, processes)
    assert f"--offload {offload}: {says}" in str(told.value)


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "paged-adamw-8bit"])
def test_states_that_fsdp_cannot_cut_are_refused_before_the_model_is_loaded(optimizer: Any) -> None:
    spec = TrainSpec(model="m", input="i", output="o", strategy="fsdp", optimizer=optimizer)
    with pytest.raises(UsageError, match=f"--optimizer {optimizer}: FSDP cannot cut its states"):
        strategy_of(spec, 2)
    assert strategy_of(spec.model_copy(update={"strategy": "zero3"}), 2) == "zero3"


# ---------------------------------------------------------------------------------------------- as its user starts it


Started = list[subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Started]:
    """None of them outlives its test."""
    trainings: Started = []
    yield trainings
    for training in trainings:
        if training.poll() is None:
            training.terminate()
            training.communicate(timeout=60)


def _training(started: Started, folder: Path, in_each: str, *arguments: object) -> subprocess.Popen[str]:
    """`in_each`: what every Python process does before anything else."""
    (folder / "sitecustomize.py").write_text(in_each)
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    program = [sys.executable, "-m", "clusterlm", "train", *map(str, arguments), "--gpus", "2"]
    started.append(subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True))
    return started[-1]


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_of_all_and_one_that_stands_still_ends_all(
    started: Started, model: Path, tmp_path: Path
) -> None:
    texts, output = texts_file(tmp_path / "long.jsonl", texts=64, words=300), tmp_path / "learned"
    asked = ("--epochs", 100, "--global-batch-size", 64, "--sequence-length", 512, "--checkpoint-steps", 1)
    training = _training(started, tmp_path, LITTLE_ROOM, model, texts, "-o", output, *asked, "--micro-batch", 32)
    run = Path(f"{output}.run")
    _wait_for(lambda: any(run.glob("checkpoints/step-????????")), training)
    (torchrun,) = _children(training.pid)
    still = _children(torchrun)[1]
    os.kill(still, signal.SIGSTOP)
    logs = max(run.glob("logs/processes-*"))
    _wait_for(lambda: (logs / "outcome.json").exists(), training)
    os.kill(still, signal.SIGCONT)  # torchrun leaves it 30 seconds before it kills it
    _, said = training.communicate(timeout=60)
    assert said.count("out of memory with 32 sequences at once on each of 2 processes: again with 16\n") == 1
    assert said.count("64 examples") == 1, "what is the same again is not said again"
    assert losses(output)[1] == pytest.approx(_loss(model, texts), abs=1e-4)
    assert training.returncode == 70
    assert said.count("error: ") == 1
    assert "error: process 0 of 2 failed: TimeoutError: nothing has moved for" in said
    assert "Thread 0x" not in said


def _loss(model: Path, texts: Path) -> float:
    """The mean over all tokens but each text's first, before anything is learned."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    lines = texts.read_text().splitlines()
    rows = [[*tokenizer(json.loads(line)["text"]).input_ids, tokenizer.eos_token_id] for line in lines]
    with torch.no_grad():
        summed = [network(torch.tensor([row]), labels=torch.tensor([row])).loss * (len(row) - 1) for row in rows]
    return float(sum(summed)) / sum(len(row) - 1 for row in rows)


@pytest.mark.slow
def test_what_its_user_can_mend_is_told_once(started: Started, model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    training = _training(
        started, tmp_path, "", model, texts, "-o", output, "--method", "lora", "--lora-targets", "k_porj"
    )
    _, said = training.communicate(timeout=120)
    assert training.returncode == 2
    assert said.count("error: ") == said.count("hint: ") == 1
    assert "error: --lora-targets: the model has no linear layer 'k_porj'\nhint: did you mean 'k_proj'?" in said
    assert "Traceback" not in said
    assert "what each process said" not in said
    assert not Path(f"{output}.run").exists()


def _wait_for(is_there: Callable[[], bool], training: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 120
    while not is_there() and training.poll() is None and time.monotonic() < ends:
        time.sleep(0.1)
    assert is_there(), training.communicate(timeout=60)


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
