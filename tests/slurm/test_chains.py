"""Where a chain of jobs ends and where a new one begins: cancelled, given up, cut anew, by hand."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import RunError
from clusterlm.runs.attempt import ATTEMPT, read_attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.keeper import begin
from clusterlm.runs.submission import comment_of
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab
from tests.slurm.runs import run_of, until, write_prompts
from tests.slurm.test_interruptions import worker_of

RECORDS = 60
SETTINGS = ("--max-new-tokens", 32)
SLOWLY = ("--max-batch-tokens", 120)
"""A few records at once, so that a run can be cut off in its midst."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.txt", RECORDS)


def generate(model: Path, prompts: Path, output: Path, *more: object) -> None:
    wanted = ("--on", "auto", "--gpus", 1, *more)
    queued = clusterlm("generate", model, prompts, "-o", output, *SETTINGS, *SLOWLY, *wanted)
    assert queued.exit_code == 0, queued.output


def results(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in Path(f"{output}.run").glob("attempts/*/results*.jsonl"))


def until_results(output: Path, at_least: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while results(output) < at_least:
        assert time.monotonic() < deadline, run_of(output)
        time.sleep(0.2)


def events(shown: dict[str, Any], event: str) -> list[str]:
    return [entry["said"] for entry in shown["journal"] if entry["event"] == event]


@pytest.mark.parametrize("how", ["runs cancel", "scancel"])
def test_a_run_cancelled_at_work_stays_so_until_its_user_resumes_it(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path, how: str
) -> None:
    output = tmp_path / "answers.jsonl"
    generate(model, prompts, output)
    until_results(output, 3)
    if how == "scancel":
        lab.run("scancel", *(job["id"] for job in run_of(output)["jobs"] if job["state"] == "RUNNING"))
    else:
        assert clusterlm("runs", "cancel", output).exit_code == 0
    assert until(output, {"cancelled", "failed", "interrupted", "finished"})["state"] == "cancelled"
    assert run_of(output)["jobs"] == []
    assert clusterlm("runs", "resume", output).exit_code == 0
    shown = until(output, {"finished", "cancelled", "failed", "interrupted"})
    assert (shown["state"], shown["done"], shown["jobs"]) == ("finished", RECORDS, []), shown


def test_attempts_are_counted_anew_where_a_user_resumes_a_chain_that_was_given_up(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    generate(model, prompts, output, "--max-attempts", 1)
    until_results(output, 3)
    os.kill(worker_of("1", output), signal.SIGKILL)
    shown = until(output, {"failed", "cancelled", "interrupted", "finished"})
    assert shown["state"] == "failed"
    assert "1 attempts are over" in events(shown, "given up")[0]
    assert clusterlm("runs", "resume", output).exit_code == 0
    assert until(output, {"finished", "cancelled", "failed", "interrupted"})["state"] == "finished"


def test_a_run_cut_into_other_shards_keeps_what_is_done(lab: Lab, model: Path, prompts: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert clusterlm("generate", model, prompts, "-o", here, *SETTINGS).exit_code == 0
    generate(model, prompts, there, "--shards", 2)
    until_results(there, 10)
    assert clusterlm("runs", "cancel", there).exit_code == 0
    before = until(there, {"cancelled"})["done"]
    assert before >= 10
    again = clusterlm("runs", "submit", there, "--on", "auto", "--gpus", 1, "--shards", 3)
    assert again.exit_code == 0, again.output
    while (shown := run_of(there))["state"] in ("queued", "running"):
        assert shown["done"] >= before, "what another cut has done counts, too"
        time.sleep(0.3)
    assert (shown["state"], shown["done"], shown["jobs"]) == ("finished", RECORDS, [])
    assert there.read_bytes() == here.read_bytes()


def test_where_all_records_are_done_but_not_the_output_a_job_writes_it(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    generate(model, prompts, output, "--shards", 2)
    until(output, {"finished"})
    written = output.read_bytes()
    output.unlink()
    Path(f"{output}.run", "finished.json").unlink()
    resumed = clusterlm("runs", "resume", output)
    assert resumed.exit_code == 0, resumed.output
    until(output, {"finished"})
    assert output.read_bytes() == written
    assert results(output) == RECORDS, "nothing is computed twice"


@pytest.fixture
def waiting(lab: Lab, model: Path, prompts: Path, tmp_path: Path) -> RunFolder:
    """A run that was given to Slurm and taken back before it began."""
    output = tmp_path / "answers.jsonl"
    generate(model, prompts, output, "--sbatch", "--begin=now+1hour")
    assert clusterlm("runs", "cancel", output).exit_code == 0
    return RunFolder(Path(f"{output}.run"))


def test_a_job_whose_number_nobody_wrote_down_is_known_by_its_comment(lab: Lab, waiting: RunFolder) -> None:
    comment = comment_of(waiting, "0123abcd")
    number = lab.run("sbatch", "--parsable", f"--comment={comment}", str(waiting.script)).strip()
    assert [job["id"] for job in run_of(waiting.path)["jobs"]] == [number]
    second = clusterlm("runs", "resume", waiting.path)
    assert f"is with Slurm already: job {number}" in second.stderr
    assert number in clusterlm("runs", "cancel", waiting.path).stderr
    assert run_of(waiting.path)["state"] == "cancelled"


def as_job(monkeypatch: pytest.MonkeyPatch, number: str, **more: str) -> None:
    for name, value in {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node1", **more}.items():
        monkeypatch.setenv(name, value)


def test_a_successor_that_was_queued_while_its_run_was_taken_back_does_no_work(
    lab: Lab, waiting: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lab.run("sbatch", "--parsable", f"--comment={comment_of(waiting, '01')}", str(waiting.script)).strip()
    as_job(monkeypatch, first)
    attempt = begin(waiting)
    (successor,) = lines_with(attempt.path, "successor")
    comment = json.loads(lines(attempt.path)[1])["comment"]
    (attempt.path / "journal.jsonl").write_text("".join(lines(attempt.path)[:2]))  # it was killed before it wrote more
    assert clusterlm("runs", "cancel", waiting.path).exit_code == 0
    late = lab.run("sbatch", "--parsable", f"--comment={comment}", str(waiting.script)).strip()
    as_job(monkeypatch, late)
    with pytest.raises(RunError, match=f"job {first} was cancelled by `clusterlm runs cancel`"):
        begin(waiting)
    assert successor["successor"] not in [job["id"] for job in run_of(waiting.path)["jobs"]]
    lab.run("scancel", late)


def lines(attempt: Path) -> list[str]:
    return (attempt / "journal.jsonl").read_text().splitlines(keepends=True)


def lines_with(attempt: Path, event: str) -> list[dict[str, Any]]:
    return [entry for line in lines(attempt) if (entry := json.loads(line))["event"] == event]


def test_a_shard_that_is_none_of_the_runs_is_refused(
    lab: Lab, waiting: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_job(monkeypatch, "9001", SLURM_ARRAY_JOB_ID="9000", SLURM_ARRAY_TASK_ID="7")
    with pytest.raises(RunError, match="there is no shard 7: the input was cut into 1"):
        begin(waiting)
    assert waiting.attempts() == []


def test_a_run_folder_that_cannot_be_written_to_is_named(
    lab: Lab, waiting: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (waiting.path / "attempts").write_text("no folder")
    as_job(monkeypatch, "9001")
    with pytest.raises(RunError, match=r"attempts"):
        begin(waiting)


@pytest.mark.parametrize("status", [0, 3, 75])
def test_the_exit_status_is_the_works_also_where_its_story_cannot_be_written(
    lab: Lab, waiting: RunFolder, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    number = lab.run("sbatch", "--parsable", f"--comment={comment_of(waiting, '01')}", str(waiting.script)).strip()
    as_job(monkeypatch, number)
    attempt = begin(waiting)
    assert read_attempt(attempt.path) == attempt
    monkeypatch.setenv(ATTEMPT, str(attempt.path))
    attempt.journal.unlink()
    attempt.journal.mkdir()
    ended = clusterlm("job", "end", waiting.path, status)
    assert ended.exit_code == status
    assert "journal.jsonl" in ended.stderr
    attempt.journal.rmdir()
    assert clusterlm("runs", "cancel", waiting.path).exit_code == 0
