"""`clusterlm train --on CLUSTER`: done as jobs, a training ends in the model of one done here, whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import all_files, clusterlm, lines_of
from tests.slurm.lab import Lab, start
from tests.slurm.runs import run_of, until, until_over
from tests.slurm.test_interruptions import worker_of
from tests.slurm.test_runs_bad_input import LLAMA_3_70B, jobs_of
from tests.training.lessons import TEXTS, losses, same, weights

LEARNING = ("--learning-rate", 0.01, "--global-batch-size", 16)
AS_HERE = ("--micro-batch", 4, "--no-gradient-checkpointing")
"""What the plan would decide otherwise for GPUs; sums of other parts are rounded otherwise."""
ONE_THREAD = ("--sbatch", "--cpus-per-task=1")
"""The lab's nodes pretend to have more cores than this machine."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two nodes of one GPU each."""
    return start(tmp_path_factory, "pair", nodes="v100:2", gpus=1)


@pytest.fixture
def two_nodes(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("SLURM_CONF", str(pair.configuration))
    return pair


def events(shown: dict[str, Any], event: str) -> list[dict[str, Any]]:
    return [entry for entry in shown["journal"] if entry["event"] == event]


@pytest.mark.slow
def test_a_training_as_a_job_gives_the_weights_of_one_that_is_done_here(
    lab: Lab, model: Path, texts: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    queued = clusterlm(
        "train", model, texts, "-o", there, *LEARNING, *AS_HERE, "--on", "auto", "--gpus", 1, *ONE_THREAD
    )
    assert queued.exit_code == 0, queued.output
    assert "96 examples in about 6 steps, 1 x a100-40, 4 sequences at once\n" in queued.stderr
    assert clusterlm("train", model, texts, "-o", here, *LEARNING, *AS_HERE).exit_code == 0
    shown = until_over(there)
    assert (shown["state"], shown["unit"], shown["done"], shown["requests"]) == ("finished", "steps", 6, 6), shown
    assert same(weights(there), weights(here))
    assert losses(there) == losses(here)
    assert events(shown, "ended")[0]["said"] == "done; 6 more steps kept; the run is finished"
    assert shown["jobs"] == [], "the job that would have gone on is cancelled"
    [line] = [line for line in clusterlm("runs", "show", there).stdout.splitlines() if line.startswith("steps ")]
    assert "6 of 6, loss " in line and " tokens/s" in line
    again = clusterlm("runs", "resume", there)
    assert (again.exit_code, "the model is trained already" in again.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.alone
def test_a_chain_of_three_jobs_over_two_nodes_ends_as_if_nothing_had_happened(
    two_nodes: Lab, model: Path, texts: Path, tmp_path: Path
) -> None:
    """A process that is killed takes both nodes' job with it; one that is asked to stop stops both at the same step."""
    here, there = tmp_path / "here", tmp_path / "there"
    settings = (*LEARNING, *AS_HERE, "--max-steps", 30, "--strategy", "ddp", "--checkpoint-steps", 2)
    queued = clusterlm("train", model, texts, "-o", there, *settings, "--on", "auto", "--nodes", 2, *ONE_THREAD)
    assert queued.exit_code == 0, queued.output
    until_saved(there, attempt=1, step=2)
    os.kill(worker_of("1", there, rank=1), signal.SIGKILL)
    until_saved(there, attempt=2, step=6)
    os.kill(worker_of("2", there, rank=1), signal.SIGTERM)
    assert clusterlm("train", model, texts, "-o", here, *settings, "--gpus", 2).exit_code == 0
    shown = until(there, {"finished", "failed", "cancelled", "interrupted"})
    assert (shown["state"], shown["attempts"], shown["done"]) == ("finished", 3, 30), shown

    assert same(weights(there), weights(here))
    assert losses(there) == losses(here)
    attempts = Path(f"{there}.run", "attempts")
    saved = [lines_of(attempts / str(number) / "saved.jsonl")[-1]["step"] for number in (1, 2)]
    begun = [lines_of(attempts / str(number) / "steps.jsonl")[0]["step"] for number in (2, 3)]
    assert begun == [step + 1 for step in saved], "each goes on behind the last checkpoint"
    logs = "".join(log.read_text() for log in Path(f"{there}.run", "logs").iterdir())
    assert {f"rank {rank} of 2 on {node}" for rank, node in enumerate(two_nodes.nodes())} <= {
        line.split(" (")[0] for line in logs.splitlines()
    }
    ended = [entry["said"] for entry in events(shown, "ended")]
    assert "a process was killed (SIGKILL)" in ended[0] and f"; {saved[0]} more steps kept" in ended[0]
    assert ended[1] == f"stopped (SIGTERM); {saved[1] - saved[0]} more steps kept"
    assert events(shown, "successor cancelled") and shown["jobs"] == []


def until_saved(output: Path, *, attempt: int, step: int, seconds: float = 120) -> None:
    """Its attempt has a checkpoint of this step, or of a later one."""
    file = Path(f"{output}.run", "attempts", str(attempt), "saved.jsonl")
    deadline = time.monotonic() + seconds
    while not file.exists() or all(line["step"] < step for line in lines_of(file)):
        assert time.monotonic() < deadline, run_of(output)
        time.sleep(0.1)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ("--shards 3", 2, ["--shards: a training is one piece of work"]),
        ("--shard-minutes 5", 2, ["--shard-minutes: a training is one piece of work"]),
        ("--at-once 2", 2, ["--at-once: a training is one piece of work"]),
        ("--copies 2", 2, ["--copies: a training is one model", "--gpus and --strategy"]),
        ("-o -", 2, ["-o -: a job cannot write to standard output", "hint: -o my-model"]),
        ("--nodes 2 --global-batch-size 4", 2, ["8 GPUs share the 4 sequences of a step", "or at most --gpus 4"]),
        ("--gpus 3 --global-batch-size 16", 2, ["16 is no multiple of the 3 GPUs", "--global-batch-size 15 or 18"]),
        ("--gpus 1 --strategy fsdp", 2, ["--strategy fsdp needs at least 2 GPUs"]),
        ("--gpu v100 --dtype bfloat16", 2, ["--dtype bfloat16: NVIDIA V100 16 GB has no bfloat16", "--dtype auto"]),
    ],
)
def test_a_training_that_cannot_be_a_job_is_refused_and_nothing_is_written(
    lab: Lab, model: Path, texts: Path, tmp_path: Path, flags: str, status: int, said: list[str]
) -> None:
    before = all_files(tmp_path)
    done = clusterlm("train", model, texts, "-o", tmp_path / "out", "--on", "auto", *flags.split())
    assert done.exit_code == status, done.output
    for words in said:
        assert words in done.stderr
    assert all_files(tmp_path) == before
    assert jobs_of(lab, tmp_path) == []


def test_what_belongs_to_jobs_needs_a_cluster(model: Path, texts: Path, tmp_path: Path) -> None:
    for flags in (("--time", "1:00:00"), ("--nodes", 2), ("--dry-run",)):
        done = clusterlm("train", model, texts, "-o", tmp_path / "out", *flags)
        assert (done.exit_code, f"{flags[0]}: belongs to Slurm jobs" in done.stderr) == (2, True), done.output


def test_a_model_that_cannot_be_trained_there_says_what_lacks_and_what_fits(
    lab: Lab, model: Path, texts: Path, tmp_path: Path
) -> None:
    """70.6 billion parameters, each with 4 bytes and two states of 4 bytes in AdamW: 1.2 TiB before anything else."""
    big = shutil.copytree(model, tmp_path / "llama-3-70b")
    (big / "config.json").write_text(json.dumps(LLAMA_3_70B))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (big / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")

    def asked(*more: object) -> Any:
        return clusterlm("train", big, texts, "-o", tmp_path / "out", "--on", "auto", *more)

    done = asked("--gpus", 1)
    assert done.exit_code == 1
    assert "error: does not fit on lab: optimizer states on " in done.stderr
    assert "(it needs 1.2 TiB, there is " in done.stderr
    adapter = asked("--method", "lora", "--gpus", 1, "--strategy", "single")
    assert "error: does not fit on lab: weights on " in adapter.stderr
    [hint] = [line for line in adapter.stderr.splitlines() if line.startswith("hint: it fits with ")]
    way = hint.removeprefix("hint: it fits with ").split(" or ")[0].split()
    assert asked("--method", "lora", *way, "--dry-run").exit_code == 0, "as it says"
    assert not list(tmp_path.glob("out*"))


def test_the_plan_decides_what_is_left_open_and_its_worker_is_told(
    lab: Lab, model: Path, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    wanted = ("--on", "auto", "--gpus", 4, "--gradient-checkpointing", "--sbatch", "--begin=now+1hour")
    queued = clusterlm("train", model, texts, "-o", output, *LEARNING, *wanted)
    assert queued.exit_code == 0, queued.output
    plan = json.loads(Path(f"{output}.run", "plan.json").read_bytes())["best"]
    told = json.loads(Path(f"{output}.run", "submission.json").read_bytes())["settings"]
    assert told["strategy"] == plan["strategy"] != "auto"
    assert (told["micro_batch"], told["offload"]) == (plan["batch"], plan["offload"])
    assert told["gradient_checkpointing"] is True, "as its user said"
    script = Path(f"{output}.run", "job.sbatch").read_text()
    assert "--nproc-per-node=4" in script
    waiting = run_of(output)
    assert (waiting["state"], waiting["unit"], waiting["requests"], waiting["loss"]) == ("queued", "steps", 6, None)
    assert clusterlm("runs", "cancel", output).exit_code == 0
