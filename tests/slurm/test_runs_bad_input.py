"""What cannot be done as jobs is said at once, with what to do, and nothing is left behind; what vanishes is told."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import all_files, clusterlm
from tests.slurm.lab import Lab

LLAMA_3_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


@pytest.fixture
def held(lab: Lab) -> Iterator[None]:
    """A job keeps every GPU of the lab, so that others wait."""
    number = lab.submit(f"#!/bin/bash\n#SBATCH --nodes={len(lab.nodes())} --gpus-per-node=4 -o /dev/null\nsleep 600\n")
    lab.until(number, {"RUNNING"})
    yield
    lab.run("scancel", number)
    lab.finish(number)


def jobs_of(lab: Lab, folder: Path) -> list[str]:
    """Those of runs in it: other tests use the same lab at the same time."""
    lines = lab.run("squeue", "--noheader", "--me", "--format=%i %o").splitlines()
    return [line.split()[0] for line in lines if str(folder) in line]


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        ("--on lumy", 2, ["--on: no cluster is called 'lumy'", "hint: did you mean 'lumi'?"]),
        ("--on auto --partition gpo", 2, ["--partition: lab has no partition 'gpo'", "hint: did you mean 'gpu'?"]),
        ("--on auto --gpu h100", 2, ["--gpu: ", "h100", "v100"]),
        ("--on auto --time 90-0", 2, ["--time: lab, gpu: 90-00:00:00 is longer than its limit, 1-00:00:00"]),
        ("--on auto --time soon", 2, ["--time: 'soon' is not a time of Slurm", "hint: write 2-00:00:00, 36:00:00"]),
        ("--on auto --time 0", 2, ["--time: a job needs a time limit", "hint: --time 2:00:00"]),
        ("--on auto --shards 0", 2, ["--shards: 0 is less than 1"]),
        ("--on auto --at-once -1", 2, ["--at-once: -1 is less than 1"]),
        ("--on auto --shard-minutes 0", 2, ["--shard-minutes: is less than a second"]),
        ("--on auto --max-hours -2", 2, ["--max-hours: is less than a second"]),
        ("--on auto --shard-minutes 0.1", 2, ["--shard-minutes: loading the model alone takes", "longer shards"]),
        ("--on auto --shards 3 --shard-minutes 4", 2, ["--shards and --shard-minutes: contradict each other"]),
        ("--on auto -o -", 2, ["-o -: a job cannot write to standard output", "hint: -o answers.jsonl"]),
        ("--on auto --sbatch --array=3", 2, ["--array", "--shards"]),
        ("--shards 3", 2, ["--shards: belongs to Slurm jobs", "hint: add --on CLUSTER, or leave it out"]),
        ("--time 1:00", 2, ["--time: belongs to Slurm jobs"]),
        ("--dry-run", 2, ["--dry-run: belongs to Slurm jobs"]),
    ],
)
def test_a_request_that_cannot_be_is_refused_and_nothing_is_written(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path, flags: str, status: int, said: list[str]
) -> None:
    before = all_files(tmp_path)
    done = clusterlm("generate", model, prompts, "-o", tmp_path / "answers.jsonl", *flags.split())
    assert done.exit_code == status, done.output
    for words in said:
        assert words in done.stderr
    assert all_files(tmp_path) == before
    assert jobs_of(lab, tmp_path) == []


def test_a_machine_without_slurm_has_nothing_to_give_a_job_to(
    model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = clusterlm("generate", model, prompts, "-o", tmp_path / "answers.jsonl", "--on", "auto")
    assert done.exit_code == 2
    assert "error: --on: A laptop with one GPU has no Slurm: jobs run there directly\nhint: leave it out" in done.stderr
    assert not list(tmp_path.glob("answers*"))


def test_more_shards_than_records_become_one_for_each_record(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    wanted = ("--on", "auto", "--shards", 200, "--dry-run")
    done = clusterlm("generate", model, prompts, "-o", tmp_path / "answers.jsonl", *wanted)
    assert done.exit_code == 0
    assert "note: --shards 200 becomes 12, one for each record\n" in done.stderr
    assert "#SBATCH --array=0-11\n" in done.stdout


def test_a_model_that_does_not_fit_says_what_is_missing_and_what_would_help(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    big = shutil.copytree(model, tmp_path / "llama-3-70b")
    (big / "config.json").write_text(json.dumps(LLAMA_3_70B))
    for weights in big.glob("*.safetensors*"):
        weights.unlink()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (big / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")

    def asked(*more: object) -> Any:
        return clusterlm("generate", big, prompts, "-o", tmp_path / "answers.jsonl", "--on", "auto", *more)

    # 80 layers of 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 = 855.6 M parameters are 136.9 GB of bfloat16:
    # on each of 4 GPUs 31.9 GiB of layers, and the embeddings. A V100 of the lab has 16 GB, an A100 40 GB.
    done = asked("--gpu", "v100")
    assert done.exit_code == 1
    assert "error: does not fit on lab: weights: layers on v100 (it needs 3" in done.stderr
    assert " GiB, there is 15." in done.stderr
    assert "hint: it fits with --quantize nf4 or --partition gpu --gpu a100-40 --gpus 4\n" in done.stderr
    alone = asked("--gpus", 1)
    assert "hint: it fits with --partition gpu --gpu a100-40 --gpus 4\n" in alone.stderr
    assert not list(tmp_path.glob("answers*"))
    assert asked("--partition", "gpu", "--gpu", "a100-40", "--gpus", 4, "--dry-run").exit_code == 0, "as it says"


def test_a_name_that_no_run_has_is_told_with_the_nearest(lab: Lab, model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    assert clusterlm("generate", model, prompts, "-o", output, "--max-new-tokens", 2).exit_code == 0
    for command in ("show", "watch", "logs", "cancel", "resume", "where"):
        done = clusterlm("runs", command, "answer.jsonl")
        assert done.exit_code == 1
        assert "error: answer.jsonl: there is no such run\nhint: did you mean 'answers.jsonl'? " in done.stderr
    assert "hint: clusterlm runs list shows them" in clusterlm("runs", "show", "nothing").stderr
    never = clusterlm("runs", "resume", output)
    assert never.exit_code == 1
    assert f"error: {output}.run: was never given to Slurm\nhint: clusterlm runs submit answers.jsonl" in never.stderr
    assert clusterlm("runs", "cancel", output).stderr == "no job of this run is with Slurm\n"
    logs = clusterlm("runs", "logs", output)
    assert logs.exit_code == 1
    assert "no job of this run has printed anything yet" in logs.stderr


# ---------------------------------------------------------------------------------------------------- folders that go


def as_owner_alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Also for root permissions are as they stand."""
    command = [sys.executable, "-m", "clusterlm", *(str(argument) for argument in arguments)]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def closed() -> Iterator[Callable[[Path, int], None]]:
    """Takes rights away from all of a folder, until the test ends."""
    found: list[tuple[Path, int]] = []

    def close(folder: Path, rights: int) -> None:
        for path in (*folder.rglob("*"), folder):
            found.append((path, path.stat().st_mode))
            path.chmod(path.stat().st_mode & ~rights)

    yield close
    for path, mode in reversed(found):
        path.chmod(mode)


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_queued(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path, closed: Callable[[Path, int], None]
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    closed(place, 0o222)
    done = as_owner_alone("generate", model, prompts, "-o", place / "answers.jsonl", "--on", "auto")
    assert done.returncode == 1
    assert f"error: {place}: you may not write into this folder\n" in done.stderr
    assert jobs_of(lab, tmp_path) == []


def test_a_run_that_has_become_read_only_is_shown_and_taken_back_and_not_continued(
    lab: Lab, held: None, model: Path, prompts: Path, tmp_path: Path, closed: Callable[[Path, int], None]
) -> None:
    output = tmp_path / "answers.jsonl"
    assert clusterlm("generate", model, prompts, "-o", output, "--on", "auto").exit_code == 0
    closed(Path(f"{output}.run"), 0o222)
    listed = as_owner_alone("runs", "list")
    assert listed.returncode == 0, listed.stderr
    assert "queued" in listed.stdout
    assert as_owner_alone("runs", "show", output).returncode == 0
    assert as_owner_alone("runs", "cancel", output).returncode == 0
    assert jobs_of(lab, tmp_path) == []
    for command in (("resume", output), ("submit", output, "--on", "auto")):
        done = as_owner_alone("runs", *command)
        assert done.returncode == 1
        assert done.stderr.endswith(f"error: {output}.run/submit.lock: the disk refuses: Permission denied\n")
    closed(Path(f"{output}.run"), 0o777)
    assert as_owner_alone("runs", "list").returncode == 0
    shut = as_owner_alone("runs", "show", output)
    assert shut.returncode == 1
    assert f"error: {output}.run: the folder of this run cannot be read\n" in shut.stderr


@pytest.mark.slow
def test_a_run_whose_folder_is_deleted_ends_by_itself_and_says_so(lab: Lab, model: Path, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("".join(f"The number {number} is\n" for number in range(3000)))
    slowly = ("--max-new-tokens", 32, "--max-batch-tokens", 120)
    assert clusterlm("generate", model, prompts, "-o", output, *slowly, "--on", "auto").exit_code == 0
    run = Path(f"{output}.run")
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in run.glob("attempts/1/results.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    jobs = jobs_of(lab, tmp_path)
    assert len(jobs) == 2, "one works, one would continue"
    with open(next(run.glob("logs/*.out"))) as log:  # to be read when it is gone
        shutil.rmtree(run)
        listed = clusterlm("runs", "list")
        assert listed.exit_code == 0
        for command in ("show", "watch", "cancel", "resume"):
            done = clusterlm("runs", command, output)
            assert done.exit_code == 1
            assert f"error: {run}: the folder of this run is there no more\n" in done.stderr
            assert "hint: jobs of it that are with Slurm still: squeue --me --name=answers.jsonl; " in done.stderr
        for job in jobs:
            assert lab.finish(job, seconds=60)["JobState"] == "FAILED"
        said = log.read()
    assert "error: " in said
    assert "Traceback" not in said
    assert not output.exists()
