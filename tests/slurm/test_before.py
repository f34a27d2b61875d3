"""Before the queue, on a real Slurm: what cannot start is refused, and nothing is left behind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterlm.runs.before import paths
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab, start

AT_ONCE = "note: Slurm expects to start it at once\n"


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of other tests."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def own_lab(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """One whose nodes may be busy or out of service."""
    lab = start(tmp_path_factory, "before")
    monkeypatch.setenv("SLURM_CONF", str(lab.configuration))
    return lab


@pytest.fixture
def generate(tiny: Callable[[str], Path], prompts: Path, tmp_path: Path) -> Callable[..., Any]:
    """Nothing may be written before the job is queued."""

    def run(*more: object, on: object = "auto") -> Any:
        words = ("--max-new-tokens", 8, "--on", on, *more)
        done = clusterlm("generate", tiny("llama"), prompts, "-o", tmp_path / "answers.jsonl", *words)
        if done.exit_code or "--dry-run" in more:
            assert not list(tmp_path.glob("answers*")), done.output
            assert not list((tmp_path / "tmp").glob("clusterlm-*"))
        return done

    return run


def profile(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """Of the lab, as probed; some text of it replaced."""
    path = tmp_path / "here.toml"
    assert clusterlm("clusters", "probe", "-o", path, "--force").exit_code == 0
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    return path


def queue_of(lab: Lab) -> list[str]:
    return lab.run("squeue", "--noheader", "--me").splitlines()


# ------------------------------------------------------------------------------------------------------------ refused


def test_what_slurm_would_take_is_told_with_the_expected_start_and_not_queued(
    own_lab: Lab, generate: Callable[..., Any]
) -> None:
    done = generate("--dry-run")
    assert done.exit_code == 0, done.output
    assert done.stderr == AT_ONCE
    assert queue_of(own_lab) == []
    assert generate("--dry-run", "--shards", 5, "--at-once", 2).stderr == AT_ONCE


def test_a_start_that_must_wait_is_told_by_the_clock(own_lab: Lab, generate: Callable[..., Any]) -> None:
    body = f"#!/bin/bash\n#SBATCH --nodes={len(own_lab.nodes())} --gpus-per-node=4 -t 30 -o /dev/null\nsleep 600\n"
    held = own_lab.submit(body)
    own_lab.until(held, {"RUNNING"})
    try:
        expected = time.strftime("%Y-%m-%d %H:", time.localtime(time.time() + 30 * 60))
        assert f"note: Slurm expects to start it at {expected}" in generate("--dry-run").stderr
    finally:
        own_lab.run("scancel", held)
        own_lab.finish(held)


def test_nodes_that_are_out_of_service_now_are_named_and_do_not_stop_the_submit(
    own_lab: Lab, generate: Callable[..., Any], tmp_path: Path
) -> None:
    node = own_lab.nodes()[2]
    own_lab.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        done = generate("--gpu", "a100")
        assert done.exit_code == 0, done.output
        said = f"note: Slurm cannot start it on the nodes as they are now: {node} is IDLE+DRAIN; it waits until"
        assert said in done.stderr
        assert len(queue_of(own_lab)) == 1
        assert clusterlm("runs", "cancel", tmp_path / "answers.jsonl").exit_code == 0
    finally:
        own_lab.run("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_what_no_node_has_is_refused_in_slurms_words_and_ours(lab: Lab, generate: Callable[..., Any]) -> None:
    done = generate("--sbatch", "--constraint=h100")
    assert done.exit_code == 1
    assert "--constraint: Slurm does not take the job: no node has such a feature (" in done.stderr
    assert "hint: there is: a100, v100" in done.stderr


def test_without_slurm_a_submit_is_refused_and_a_dry_run_is_not(
    generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    dry = generate("--dry-run", "--account", "p", on="lumi")
    assert dry.exit_code == 0
    assert "note: nothing but the plan was checked: there is no Slurm here" in dry.stderr
    done = generate("--account", "p", on="lumi")
    assert done.exit_code == 1
    assert "error: --on lumi: there is no Slurm here: the command scontrol is missing" in done.stderr
    assert "without --on the run is done on this machine" in done.stderr


# ------------------------------------------------------------------------------------------------------ other cluster


def test_a_profile_of_another_cluster_is_refused_with_both_names(
    lab: Lab, generate: Callable[..., Any], tmp_path: Path
) -> None:
    name = lab.run("scontrol", "show", "config").split("ClusterName", 1)[1].split("=", 1)[1].split()[0]
    file = profile(tmp_path, (f'cluster_names = ["{name}"]', 'cluster_names = ["elsewhere"]'))
    done = generate(on=file)
    assert done.exit_code == 2
    assert f"the Slurm of this machine is called '{name}', that of {name} 'elsewhere'" in done.stderr
    assert f"hint: --on lab, or log in to {name}" in done.stderr
    assert "nothing but the plan was checked" in generate("--dry-run", on=file).stderr


def test_a_name_that_nobody_verified_refuses_nothing(
    lab: Lab, generate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "clusterlm" / "clusters").mkdir(parents=True)
    other = profile(tmp_path, ("cluster_names = [", 'cluster_names = ["z"] # '))
    other.rename(tmp_path / "clusterlm" / "clusters" / "lab.toml")  # so that no known profile is of this Slurm
    file = profile(tmp_path, ("cluster_names = [", 'unverified = ["cluster_names"]\ncluster_names = ["x", "y"] # '))
    done = generate("--dry-run", on=file)
    assert done.exit_code == 0, done.output
    assert "its profile expects 'x' or 'y', unverified\n" in done.stderr


def test_a_shipped_cluster_that_is_not_this_one_is_told_by_the_name_of_this_one(
    lab: Lab, generate: Callable[..., Any]
) -> None:
    done = generate("--account", "p", on="lumi")
    assert done.exit_code == 2
    assert "error: --on lumi: the Slurm of this machine is called 'lab" in done.stderr
    assert "that of LUMI-G 'lumi'\nhint: --on lab, or log in to LUMI-G\n" in done.stderr


# -------------------------------------------------------------------------------------------------------------- paths


def test_files_in_tmp_are_fine_where_the_nodes_are_this_machine_and_refused_elsewhere(
    lab: Lab, generate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generate("--dry-run").stderr == AT_ONCE
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1000000000\n")  # as if this were a login node: it booted in 2001
    monkeypatch.setattr(paths, "STATE_OF_MACHINE", tmp_path / "stat")
    done = generate()
    assert done.exit_code == 1
    said = (
        f"error: {tmp_path}/answers.jsonl.run: the nodes of gpu cannot see the run folder: each machine has a /tmp of"
    )
    assert said in done.stderr
    assert "hint: -o FILE where the nodes see it too: in your home, or on the site's scratch" in done.stderr
    monkeypatch.setattr(paths, "STATE_OF_MACHINE", tmp_path / "nothing")
    unknown = generate("--dry-run")
    assert unknown.exit_code == 0
    assert f"note: do the nodes see the run folder? {tmp_path}/answers.jsonl.run: each machine" in unknown.stderr


def test_a_place_that_the_site_cleans_is_named(lab: Lab, generate: Callable[..., Any], tmp_path: Path) -> None:
    area = f'[storage.scratch]\nsource = "probe"\npath = "{tmp_path}"\nuse = "scratch"\npurge_days = 14\n'
    file = profile(tmp_path, ("[access]", f"{area}\n[access]"))
    said = f"note: the run folder and the input are on {tmp_path} (scratch), where files are deleted that nobody reads"
    assert f"{said} for 14 days\n" in generate("--dry-run", on=file).stderr


# ----------------------------------------------------------------------------------------------- accounts and numbers


@pytest.mark.slow  # the database takes 5 to 15 seconds to start
class TestAccounted:
    def test_an_unknown_account_is_refused_with_those_there_are_the_nearest_first(
        self, accounted: Lab, generate: Callable[..., Any]
    ) -> None:
        accounts = set(accounted.run("sacctmgr", "-nP", "show", "assoc", "user=root", "format=account").split())
        account = min(accounts - {"root"})
        done = generate("--account", account[:-1])
        assert done.exit_code == 1
        assert "error: --account: Slurm does not take the job: " in done.stderr
        assert "(Invalid account or account/partition combination specified)" in done.stderr
        assert f"hint: did you mean --account {account}? you may charge: {account}, " in done.stderr

    def test_an_unknown_qos_is_refused_with_those_of_the_account(
        self, accounted: Lab, generate: Callable[..., Any]
    ) -> None:
        done = generate("--qos", "hgh")
        assert done.exit_code == 1
        assert "error: --qos: Slurm does not take the job: " in done.stderr
        assert "hint: did you mean --qos high? you may use with account " in done.stderr

    def test_a_qos_that_would_let_the_job_wait_for_ever_is_told(
        self, accounted: Lab, generate: Callable[..., Any]
    ) -> None:
        accounted.run("sacctmgr", "--immediate", "modify", "user", "root", "set", "qos+=capped")
        try:
            accounted.until_it_works("sbatch", "--test-only", "--qos=capped", "--time=1", "--wrap=true")
            done = generate("--qos", "capped", "--time", "2:00:00", "--dry-run")
        finally:
            accounted.run("sacctmgr", "--immediate", "modify", "user", "root", "set", "qos-=capped")
        assert done.exit_code == 0, done.output
        said = "note: QoS capped lets a job run for 01:00:00, not 02:00:00: such a job may wait for ever; "
        assert f"{said}--time 01:00:00 does not\n" in done.stderr

    def test_more_jobs_than_a_partition_takes_are_refused_with_a_number_that_works(
        self, accounted: Lab, generate: Callable[..., Any], tmp_path: Path
    ) -> None:
        # The QoS of the partition low takes 5 jobs of a user, of which 2 run.
        low = ("--partition", "low")
        done = generate(*low, "--shards", 6, on=profile(tmp_path))
        assert done.exit_code == 2
        assert "error: --shards: 6 shards are 6 jobs; low takes 5 jobs of a user\n" in done.stderr
        assert "hint: --shards 2 leaves room for those that continue them\n" in done.stderr
        tight = generate(*low, "--shards", 4, "--dry-run", on=profile(tmp_path))
        assert tight.exit_code == 0, tight.output
        assert "note: 4 jobs, and each that runs has one waiting to continue it: up to 6; low takes 5" in tight.stderr
        assert "takes" not in generate(*low, "--shards", 2, "--dry-run", on=profile(tmp_path)).stderr

    def test_where_the_profile_does_not_know_how_many_slurm_does(
        self, accounted: Lab, generate: Callable[..., Any], tmp_path: Path
    ) -> None:
        open_ended = profile(tmp_path, ("max_submitted = 5\n", ""))
        done = generate("--partition", "low", "--shards", 6, on=open_ended)
        assert done.exit_code == 1
        assert "error: --shards: Slurm does not take the job: you have as many jobs" in done.stderr
        assert "(QOSMaxSubmitJobPerUserLimit)" in done.stderr
        assert "hint: each of the 6 shards is a job: fewer --shards\n" in done.stderr

    def test_jobs_that_are_in_the_queue_already_count(
        self, accounted: Lab, generate: Callable[..., Any], tmp_path: Path
    ) -> None:
        header = "#!/bin/sh\n#SBATCH --partition=low --begin=now+1hour --output=/dev/null\n"
        jobs = [accounted.submit(f"{header}true\n") for _ in range(5)]
        try:
            done = generate("--partition", "low", on=profile(tmp_path))
            assert done.exit_code == 2
            assert "low takes 5 jobs of a user and has 5 of yours: there is no room for another" in done.stderr
        finally:
            accounted.run("scancel", *jobs)
