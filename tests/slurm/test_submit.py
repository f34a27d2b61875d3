"""Jobs are given to a real Slurm once each, also where its answer is lost; what it refuses is explained."""

from __future__ import annotations

import fcntl
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from clusterlm.errors import SlurmError
from clusterlm.slurm import queue
from clusterlm.slurm.lab import running_lab
from clusterlm.slurm.lab.daemons import daemons
from tests.slurm.lab import Lab, start
from tests.slurm.test_no_answer import free_port, pointing_at, silent_port

__all__ = ["silent_port"]  # a fixture

LATER = "--begin=now+1hour"


@pytest.fixture(scope="session")
def unsteady_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return start(tmp_path_factory, "unsteady")


@pytest.fixture
def unsteady(unsteady_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """One whose controller may be silent: for one test at a time."""
    monkeypatch.setenv("SLURM_CONF", str(unsteady_lab.configuration))
    with open(unsteady_lab.folder / "in-use", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield unsteady_lab


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.sbatch"
    path.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\n#SBATCH --time=1\n#SBATCH --mem=100\ntrue\n")
    return path


def with_comment(lab: Lab, comment: str) -> list[str]:
    """Those that wait, as Slurm's own command lists them."""
    listed = lab.run("squeue", "--noheader", "--states=pending", "--format=%i %k").splitlines()
    return [line.split(" ", 1)[0] for line in listed if line.split(" ", 1)[1] == comment]


# ------------------------------------------------------------------------------------------------------------- queued


def test_a_job_is_queued_with_its_comment_and_options(lab: Lab, script: Path) -> None:
    job = queue.submit(script, LATER, "--job-name=it's | mine", comment="clusterlm:1:a")
    said = lab.job(job)
    assert (said["JobState"], said["JobName"], said["Comment"]) == ("PENDING", "it's | mine", "clusterlm:1:a")
    queue.cancel(job)


def test_an_array_is_queued_under_one_id(lab: Lab, script: Path) -> None:
    job = queue.submit(script, LATER, "--array=0-2", comment="clusterlm:1:b")
    assert job.isdigit()
    assert queue.find_by_comment("clusterlm:1:b") == job
    queue.cancel(job)


def test_a_job_that_is_submitted_by_a_job_knows_nothing_of_that_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SLURM_JOB_ID": "4",
        "SLURM_ARRAY_JOB_ID": "4",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_MEM_PER_NODE": "7",
        "SRUN_CPUS_PER_TASK": "5",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_OF_MINE": "gone",
        "OF_MINE": "here",
    }.items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "job.sbatch"
    script.write_text(f"#!/bin/sh\n#SBATCH --mem=100\n#SBATCH --output={lab.jobs}/%j.environment\nenv\n")
    job = queue.submit(script, comment="clusterlm:1:c")
    lab.finish(job)
    lines = (lab.jobs / f"{job}.environment").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line)
    stale = {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SRUN_CPUS_PER_TASK", "SLURM_OF_MINE"}
    assert not stale & settings.keys()
    assert "CUDA_VISIBLE_DEVICES" not in settings
    assert settings["SLURM_JOB_ID"] == job
    assert (settings["OF_MINE"], settings["SLURM_CONF"]) == ("here", str(lab.configuration))


def test_the_users_settings_fill_in_what_the_script_leaves_open_and_no_more(
    lab: Lab, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "9")
    monkeypatch.setenv("SBATCH_OUTPUT", "/tmp/not-there")
    monkeypatch.setenv("SBATCH_PARTITION", "a100")
    monkeypatch.setenv("SBATCH_WAIT", "1")
    job = queue.submit(script, LATER, comment="clusterlm:1:e")
    said = lab.job(job)
    assert (said["TimeLimit"], said["StdOut"], said["Partition"].split()[0]) == ("00:01:00", "/dev/null", "a100")
    queue.cancel(job)


def test_a_forecast_queues_nothing(lab: Lab, script: Path) -> None:
    forecast = queue.test_only(script, "--array=0-2", "--comment=clusterlm:1:d")
    assert forecast.start is not None
    assert abs(forecast.start - datetime.now().astimezone()) < timedelta(minutes=5)
    assert re.match(r"Job \d+ to start at .* using 1 processors on nodes \S+ in partition gpu", forecast.said)
    assert with_comment(lab, "clusterlm:1:d") == []


def test_a_forecast_is_refused_as_the_job_would_be(lab: Lab, script: Path) -> None:
    with pytest.raises(SlurmError, match="does not take the job: longer than its limit allows"):
        queue.test_only(script, "--partition=short", "--time=10")


# -------------------------------------------------------------------------------------------------------- lost answers


def test_a_job_whose_answer_was_lost_is_found_and_not_queued_twice(unsteady: Lab, script: Path) -> None:
    (controller,) = daemons(running_lab(unsteady.folder).layout, "slurmctld")
    controller.send(signal.SIGSTOP)  # the system takes the question in its stead; sbatch gives up after 5 seconds
    again = threading.Timer(7, controller.send, [signal.SIGCONT])
    again.start()
    try:
        job = queue.submit(script, LATER, comment="clusterlm:2:a")
    finally:
        again.join()
    assert with_comment(unsteady, "clusterlm:2:a") == [job]
    queue.cancel(job)


def test_a_refusal_that_was_lost_is_no_job(unsteady: Lab, script: Path) -> None:
    (controller,) = daemons(running_lab(unsteady.folder).layout, "slurmctld")
    controller.send(signal.SIGSTOP)
    again = threading.Timer(5.5, controller.send, [signal.SIGCONT])
    again.start()
    try:
        with pytest.raises(SlurmError, match="does not take the job: no node has all that it asks for") as refusal:
            queue.submit(script, LATER, "--gres=gpu:9", comment="clusterlm:2:f")
    finally:
        again.join()
    assert not isinstance(refusal.value, queue.Unknown)


def test_a_controller_that_is_away_for_seconds_is_waited_for(unsteady: Lab, script: Path) -> None:
    unsteady.stop_controller()
    again = threading.Timer(2, unsteady.start_controller)
    again.start()
    try:
        job = queue.submit(script, LATER, comment="clusterlm:2:b")
    finally:
        again.join()
    assert with_comment(unsteady, "clusterlm:2:b") == [job]
    queue.cancel(job)


def test_questions_survive_a_controller_that_is_silent_for_a_moment(unsteady: Lab, script: Path) -> None:
    job = queue.submit(script, LATER, comment="clusterlm:2:c")
    (controller,) = daemons(running_lab(unsteady.folder).layout, "slurmctld")
    controller.send(signal.SIGSTOP)
    again = threading.Timer(6, controller.send, [signal.SIGCONT])
    again.start()
    try:
        assert queue.find_by_comment("clusterlm:2:c") == job
    finally:
        again.join()
    queue.cancel(job)


def test_where_slurm_stays_silent_it_is_said_that_nobody_knows(
    lab: Lab, silent_port: socket.socket, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LOOK_AFTER_SECONDS", (0.1,))  # not a minute
    monkeypatch.setattr(queue, "SUBMIT_SECONDS", 1.0)
    monkeypatch.setattr(queue, "LOOK_SECONDS", 1.0)
    monkeypatch.setenv("SLURM_CONF", str(pointing_at(lab, silent_port.getsockname()[1], tmp_path / "slurm.conf")))
    with silent_port, pytest.raises(queue.Unknown, match="not known whether the job is in the queue") as unknown:
        queue.submit(script, comment="clusterlm:2:d")
    assert "no answer in 1 seconds" in unknown.value.problem
    assert "clusterlm:2:d" in (unknown.value.hint or "")


def test_where_no_controller_is_there_the_job_is_certainly_not_queued(
    lab: Lab, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LOOK_AFTER_SECONDS", ())
    monkeypatch.setenv("SLURM_CONF", str(pointing_at(lab, free_port(), tmp_path / "slurm.conf")))
    begun = time.monotonic()
    with pytest.raises(SlurmError, match="controller does not answer") as problem:
        queue.submit(script, comment="clusterlm:2:e")
    assert not isinstance(problem.value, queue.Unknown)
    assert time.monotonic() - begun < 15


# ------------------------------------------------------------------------------------------------------------ refusals

REFUSED = (
    # options, what is wrong, the flag, what the hint says
    ("--partition=gpi", "there is no partition gpi", "--partition", "did you mean 'gpu'?"),
    ("--partition=short --time=10", "longer than its limit allows", "--time", "short allows 00:02:00"),
    ("--time=abc", "is not a time of Slurm", "--time", "2-00:00:00"),
    ("--nodes=9", "not so many nodes", "--nodes", "gpu 3"),
    ("--partition=v100 --nodes=3", "not so many nodes", "--nodes", "v100 has 2 nodes"),
    ("--mem=100G", "no node has so much memory", "--mem", "a node of the cluster has for jobs: 8 CPUs and 15 GiB"),
    ("--cpus-per-task=9", "no node has so many CPUs", "--cpus-per-task", "8 CPUs"),
    ("--cpus-per-task=64", "more CPUs than there are", "--cpus-per-task", "8 CPUs"),
    ("--gres=gpu:h100:1", "no node has all that it asks for", "--gpus", "the cluster has: a100 x 4, v100 x 4"),
    ("--gres=gpu:8 --partition=a100", "no node has all that it asks for", "--gpus", "a node of a100 has: a100 x 4"),
    ("--gres=foo:1", "there are no such GPUs", "--gpus", "a100 x 4, v100 x 4"),
    ("--constraint=h100", "no node has such a feature", "--constraint", "there is: a100, v100"),
    ("--nodelist=nosuch", "there is no such node", "--nodelist", "sinfo"),
    ("--array=0-1001", "too many shards in one array", "--shards", "at most 1,001 tasks"),
    ("--reservation=nosuch", "no such reservation", "--reservation", "scontrol show reservation"),
    ("--licenses=nosuch:1", "there is no such licence", "--licenses", "scontrol show licenses"),
    ("--dependency=afterok:x", "it waits for a job that Slurm does not know", "--dependency", "squeue"),
    ("--nosuch", "sbatch does not know --nosuch", "--sbatch", "man sbatch"),
    ("--begin=nosuch", "sbatch cannot read what --begin says", "--begin", "man sbatch"),
)


@pytest.mark.parametrize("options, problem, where, hint", REFUSED, ids=[row[0] for row in REFUSED])
def test_a_refusal_says_what_is_wrong_where_and_what_there_is(
    lab: Lab, script: Path, options: str, problem: str, where: str, hint: str
) -> None:
    with pytest.raises(SlurmError) as refusal:
        queue.submit(script, *options.split(), comment="clusterlm:3:a")
    assert refusal.value.problem.startswith(f"Slurm does not take the job: {problem} (")
    assert refusal.value.where == where
    assert hint in (refusal.value.hint or "")
    assert with_comment(lab, "clusterlm:3:a") == []
    assert queue.find_by_comment("clusterlm:3:a") is None, "Slurm remembers some that it refused"


def test_slurms_own_words_are_told_with_ours(lab: Lab, script: Path) -> None:
    with pytest.raises(SlurmError, match=r"\(Memory specification can not be satisfied; Requested node configuration"):
        queue.submit(script, "--mem=100G", comment="clusterlm:3:b")


def test_the_partition_of_the_script_is_that_of_the_hint(lab: Lab, script: Path) -> None:
    script.write_text(script.read_text().replace("--time=1\n", "--time=10\n#SBATCH --partition=short\n"))
    with pytest.raises(SlurmError) as refusal:
        queue.submit(script, comment="clusterlm:3:c")
    assert (refusal.value.hint or "").startswith("short allows 00:02:00")


def test_a_partition_that_takes_no_jobs_is_told(unsteady: Lab, script: Path) -> None:
    unsteady.run("scontrol", "update", "PartitionName=debug", "State=DRAIN")
    with pytest.raises(SlurmError, match="debug is closed now") as refusal:
        queue.submit(script, "--partition=debug", comment="clusterlm:3:d")
    assert refusal.value.hint == "there is: gpu, high, low, short, a100, v100, whole"


@pytest.mark.parametrize(
    "text, problem",
    [(None, "the batch script cannot be read"), ("true\n", "the file is no batch script")],
    ids=["missing", "without its first line"],
)
def test_a_file_that_is_no_batch_script_is_told(lab: Lab, tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "job.sbatch"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SlurmError, match=problem):
        queue.submit(path, comment="clusterlm:3:e")


@pytest.mark.slow  # the database takes 5 to 15 seconds to start
class TestAccounted:
    @pytest.mark.parametrize(
        "options, problem, where, hint",
        [
            ("--account=nosuch", "this account may not be charged", "--account", "you may charge: proj"),
            ("--qos=nosuch", "there is no such QoS", "--qos", "you may use: high, low, normal"),
            ("--partition=high", "there is no such QoS, or not for this", "--qos", "high takes: high"),
        ],
    )
    def test_what_this_user_may_charge_and_use_is_told(
        self, accounted: Lab, script: Path, options: str, problem: str, where: str, hint: str
    ) -> None:
        with pytest.raises(SlurmError, match=problem) as refusal:
            queue.submit(script, *options.split(), comment="clusterlm:4:a")
        assert refusal.value.where == where
        assert hint in (refusal.value.hint or "")

    def test_a_limit_of_a_qos_is_told_in_words(self, accounted: Lab, script: Path) -> None:
        # capped, the QoS of low: MaxSubmitJobsPerUser=5
        with pytest.raises(SlurmError, match="as many jobs in the queue as you may") as refusal:
            queue.submit(script, "--partition=low", "--array=0-9", comment="clusterlm:4:b")
        assert "QOSMaxSubmitJobPerUserLimit" in refusal.value.problem
