"""An input in shards: how many there are, and arrays of Slurm that are too short for all of them."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterlm.runs.attempt import Attempt
from tests.cli.running import clusterlm, lines_of
from tests.slurm.lab import Lab, start

MISTRAL_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
ONE_A100 = ("--partition", "gpu", "--gpu", "a100-40", "--gpus", 1)


@pytest.fixture
def short_arrays(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Their tasks are 0 and 1."""
    lab = start(tmp_path_factory, "short-arrays", extra="MaxArraySize=2\n")
    monkeypatch.setenv("SLURM_CONF", str(lab.configuration))
    return lab


def write_prompts(tmp_path: Path, records: int) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"The number {number:06} is\n" for number in range(records)))  # 24 characters
    return path


def shards_in(script: str) -> int:
    line = next((line for line in script.splitlines() if line.startswith("#SBATCH --array=0-")), None)
    return int(line.removeprefix("#SBATCH --array=0-")) + 1 if line else 1


def test_shards_of_so_many_minutes_are_counted_by_the_plan(
    lab: Lab, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    records = 20_000
    prompts, model = write_prompts(tmp_path, records), shutil.copytree(tiny("llama"), tmp_path / "mistral-7b")
    (model / "config.json").write_text(json.dumps(MISTRAL_7B))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    prompt_tokens = 22 // 4  # of 22 characters without the line's end, four of which are about a token
    asked = ("--task", "generate", "--engine", "transformers", "--sequence-length", prompt_tokens, "--new-tokens", 256)
    planned = clusterlm("plan", model, "--on", "lab", *asked, "--records", records, *ONE_A100, "--json")
    duration = json.loads(planned.stdout)["best"]["duration"]
    work, load = duration["middle"] - duration["load"], duration["load"]
    # As this is written 1280 s, and 69 s to load: shards of 10 minutes have 531 s for work, and there are 3 of them.
    for minutes in (5, 10, 60):
        done = clusterlm(
            *("generate", model, prompts, "-o", tmp_path / "answers.jsonl", "--max-new-tokens", 256),
            *("--on", "auto", "--shard-minutes", minutes, *ONE_A100, "--dry-run"),
        )
        assert done.exit_code == 0, done.output
        assert shards_in(done.stdout) == math.ceil(work / (60 * minutes - load))


def test_once_a_run_has_been_at_work_shards_are_counted_by_its_own_speed(
    lab: Lab, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    prompts, output = write_prompts(tmp_path, 1100), tmp_path / "answers.jsonl"
    wanted = ("--on", "auto", *ONE_A100)
    asked = ("generate", tiny("llama"), prompts, "-o", output, "--max-new-tokens", 8)
    before = clusterlm(*asked, *wanted, "--shard-minutes", 3, "--dry-run")
    assert shards_in(before.stdout) == 1, "it should be quick, by the plan"
    assert clusterlm(*asked, *wanted, "--sbatch", "--begin=now+1hour").exit_code == 0
    assert clusterlm("runs", "cancel", output).exit_code == 0
    # Two processes of one job did 50 records each, side by side, in 80 and in 100 s: a job takes 1 s for each record.
    attempt = Attempt(path=Path(f"{output}.run", "attempts", "1"), began=time.time() - 100, job="1")
    attempt.path.mkdir(parents=True)
    attempt.write()
    for rank, seconds in enumerate((80.0, 100.0)):
        progress = {"requests": 1100, "done": 50, "failed": 0, "new_results": 50, "new_tokens": 400, "seconds": seconds}
        attempt.file("progress.json", rank).write_text(json.dumps(progress))
    # 3 minutes, of which the plan takes 60 s to load the model, are 120 records, a little less: 1100 / 120 = 9.2
    again = clusterlm("runs", "submit", output, *wanted, "--shard-minutes", 3, "--dry-run")
    assert again.exit_code == 0, again.output
    assert shards_in(again.stdout) == 10


@pytest.mark.slow
def test_more_shards_than_an_array_takes_are_several_arrays_and_each_successor_knows_its_shard(
    short_arrays: Lab, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_EXPORT", "NIL")  # a job knows nothing of its user's environment
    lab, prompts, output = short_arrays, write_prompts(tmp_path, 15), tmp_path / "answers.jsonl"
    asked = ("generate", tiny("llama"), prompts, "-o", output, "--max-new-tokens", 8)
    queued = clusterlm(*asked, "--on", "auto", "--gpus", 1, "--shards", 5)
    assert queued.exit_code == 0, queued.output
    arrays = re.findall(r"job (\d+)_\[([\d-]+)\]", queued.stderr)
    assert [tasks for _, tasks in arrays] == ["0-1", "0-1", "0"]
    run, killed, step = Path(f"{output}.run"), f"{arrays[2][0]}_0", f"{arrays[2][0]}_0.0"
    until(lambda: step in lab.run("squeue", "--steps", "--noheader", "--format=%i").split())
    assert jobs_of(run, shard=4) == [killed]
    lab.run("scancel", "--signal=KILL", step)
    watched = clusterlm("runs", "watch", output, "--interval", 1)
    assert watched.exit_code == 0, watched.output
    assert [line["id"] for line in lines_of(output)] == [str(number) for number in range(15)]
    assert len(jobs_of(run, shard=4)) == 2, "the killed one and its successor"


def jobs_of(run: Path, shard: int) -> list[str]:
    """Those that worked on it."""
    found: list[dict[str, Any]] = [json.loads(file.read_bytes()) for file in run.glob("attempts/*/attempt.json")]
    return [one["job"] for one in sorted(found, key=lambda one: one["began"]) if one["shard"] == shard]


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
