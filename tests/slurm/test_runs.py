"""Runs as jobs of a real Slurm: from the command to the answers, followed, taken back, continued."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import clusterlm, lines_of
from tests.slurm.lab import Lab
from tests.slurm.runs import RECORDS, run_of, until


def generate(model: Path, prompts: Path, output: Path, *more: object) -> Any:
    return clusterlm("generate", model, prompts, "-o", output, "--max-new-tokens", 8, "--on", "auto", *more)


def story(shown: dict[str, Any]) -> list[str]:
    return [entry["event"] for entry in shown["journal"]]


def holding(lab: Lab) -> str:
    """A job that keeps every GPU of the lab, so that others wait."""
    number = lab.submit(f"#!/bin/bash\n#SBATCH --nodes={len(lab.nodes())} --gpus-per-node=4 -o /dev/null\nsleep 600\n")
    lab.until(number, {"RUNNING"})
    return number


@pytest.mark.slow
def test_a_run_as_a_job_gives_the_answers_of_a_run_here(lab: Lab, model: Path, prompts: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert clusterlm("generate", model, prompts, "-o", here, "--max-new-tokens", 8).exit_code == 0
    queued = generate(model, prompts, there)
    assert queued.exit_code == 0, queued.output
    assert "queued: job " in queued.stderr
    watched = clusterlm("runs", "watch", there)
    assert watched.exit_code == 0, watched.output
    assert there.read_bytes() == here.read_bytes()
    shown = until(there, {"finished"})
    assert story(shown) == ["submitted", "started", "successor", "ended", "successor cancelled"]
    assert (shown["done"], shown["failed"], shown["attempts"]) == (RECORDS, 0, 1)
    assert shown["gpu_hours"] > 0
    assert shown["jobs"] == [], "no successor is left behind"


def test_a_dry_run_prints_what_a_submit_writes_and_writes_nothing(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    wishes = ("--shards", 3, "--at-once", 2, "--sbatch", "--nice=100", "--time", "0:20:00")
    printed = generate(model, prompts, output, *wishes, "--dry-run")
    assert printed.exit_code == 0, printed.output
    assert not Path(f"{output}.run").exists()
    assert "#SBATCH --array=0-2%2\n" in printed.stdout
    assert "#SBATCH --nice=100\n" in printed.stdout
    held = holding(lab)
    try:
        assert generate(model, prompts, output, *wishes).exit_code == 0
        assert Path(f"{output}.run", "job.sbatch").read_text() == printed.stdout
        assert clusterlm("runs", "cancel", output).exit_code == 0
    finally:
        lab.run("scancel", held)


@pytest.mark.slow
def test_a_waiting_run_says_why_and_can_be_taken_back_and_continued(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    held = holding(lab)
    try:
        assert generate(model, prompts, output).exit_code == 0
        shown = until(output, {"queued"})
        while shown["jobs"][0]["reason"] in (None, "None"):
            shown = run_of(output)
        assert shown["jobs"][0]["reason"] in ("Resources", "Priority")
        assert shown["said"]
        line = next(line for line in clusterlm("runs", "list").stdout.splitlines() if "answers.jsonl" in line)
        assert "queued" in line
        second = generate(model, prompts, output)
        assert second.exit_code == 1
        assert "is with Slurm already: job " in second.stderr
        here = clusterlm("generate", model, prompts, "-o", output, "--max-new-tokens", 8)
        assert here.exit_code == 1, "no local process works beside jobs"
        assert "is with Slurm already: job " in here.stderr
        cancelled = clusterlm("runs", "cancel", output)
        assert cancelled.exit_code == 0
        assert until(output, {"cancelled"})["jobs"] == []
        assert clusterlm("runs", "cancel", output).exit_code == 0, "twice does no harm"
    finally:
        lab.run("scancel", held)
    assert clusterlm("runs", "resume", output).exit_code == 0
    assert until(output, {"finished"})["done"] == RECORDS
    again = clusterlm("runs", "resume", output)
    assert again.exit_code == 1
    assert "every record has a result already" in again.stderr


def test_two_submits_of_one_run_at_the_same_time_queue_one_job(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    held = holding(lab)
    command = [sys.executable, "-m", "clusterlm", "generate", str(model), str(prompts), "-o", str(output)]
    try:
        both = [
            subprocess.Popen([*command, "--on", "auto"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=60)[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 1], said
        assert len(run_of(output)["jobs"]) == 1
        clusterlm("runs", "cancel", output)
    finally:
        lab.run("scancel", held)


def counting(folder: Path, commands: tuple[str, ...]) -> Path:
    """A folder for PATH with these commands, each of which notes that it was called and does what it always does."""
    folder.mkdir()
    for name in commands:
        real = shutil.which(name)
        shim = folder / name
        shim.write_text(f'#!/bin/sh\necho {name} >> "{folder}/calls"\nexec {real} "$@"\n')
        shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    return folder


def test_a_list_of_many_runs_asks_slurm_no_more_than_twice(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holding(lab)
    try:
        outputs = [tmp_path / f"answers-{number}.jsonl" for number in range(5)]
        for output in outputs:
            assert generate(model, prompts, output).exit_code == 0
        shims = counting(tmp_path / "shims", ("squeue", "sacct", "scontrol", "sinfo", "sbatch", "scancel", "sacctmgr"))
        monkeypatch.setenv("PATH", f"{shims}{os.pathsep}{os.environ['PATH']}")
        listed = json.loads(clusterlm("runs", "list", "--json").stdout)
        names = {output.name for output in outputs}
        assert {run["name"] for run in listed if run["state"] == "queued"} >= names
        assert len((shims / "calls").read_text().split()) <= 2
    finally:
        for output in outputs:
            clusterlm("runs", "cancel", output)
        lab.run("scancel", held)


def test_without_slurm_runs_are_listed_and_the_silence_is_told(
    lab: Lab, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    held = holding(lab)
    try:
        assert generate(model, prompts, output).exit_code == 0
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("PATH", str(tmp_path))
            listed = clusterlm("runs", "list")
            watched = clusterlm("runs", "watch", output)
            here = clusterlm("generate", model, prompts, "-o", output, "--max-new-tokens", 8)
        assert listed.exit_code == 0
        assert "answers.jsonl" in listed.stdout
        assert "there is no Slurm here" in listed.stderr
        assert watched.exit_code == 3, "nobody could ever tell of its end"
        assert here.exit_code == 0, "a run that was brought to another machine goes on"
        assert "there is no Slurm here to ask for them" in here.stderr
    finally:
        clusterlm("runs", "cancel", output)
        lab.run("scancel", held)


@pytest.mark.slow
def test_the_logs_of_a_job_are_shown(lab: Lab, model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    assert generate(model, prompts, output, "--shards", 2).exit_code == 0
    assert clusterlm("runs", "watch", output, "--interval", 1).exit_code == 0
    assert len(lines_of(output)) == RECORDS
    shown = run_of(output)
    jobs = [entry["job"] for entry in shown["journal"] if entry["event"] == "started"]
    assert len(jobs) == 2
    for job in jobs:
        logs = clusterlm("runs", "logs", output, "--job", job)
        assert logs.exit_code == 0
        assert "records" in logs.stdout
    unknown = clusterlm("runs", "logs", output, "--job", "1")
    assert unknown.exit_code == 1
    assert "no job 1 of this run has printed anything" in unknown.stderr
