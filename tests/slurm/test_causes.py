"""Ends that Slurm brings about, and its refusals: each happens on a real cluster, and is told for what it was."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterlm.errors import SlurmError
from clusterlm.runs.diagnosis import Diagnosis, Evidence, diagnose
from clusterlm.slurm import queue
from clusterlm.slurm.client import ask
from clusterlm.slurm.lab.configuration import memory_is_limited
from tests.slurm.lab import Lab, start

OVER_THE_LIMIT = f"{sys.executable} -S -c 'b\"x\" * (400 << 20)'"
"""A process that fills 400 MiB."""


@pytest.fixture(scope="session")
def lab_of_this_worker(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Nodes are lost and filled here, under no other test's feet."""
    return start(tmp_path_factory, f"causes-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}")


@pytest.fixture
def lab(lab_of_this_worker: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("SLURM_CONF", str(lab_of_this_worker.configuration))
    return lab_of_this_worker


def submitted(lab: Lab, *lines: str, options: str = "") -> str:
    """A job of these lines that prints into a file that keeps its name."""
    header = f"#!/bin/bash\n#SBATCH --output={lab.jobs}/causes-%j.out\n#SBATCH --open-mode=append\n"
    asked = "".join(f"#SBATCH {option}\n" for option in options.split())
    return lab.submit("\n".join((header + asked, *lines, "")))


def log_of(lab: Lab, job: str) -> str:
    file = lab.jobs / f"causes-{job}.out"
    return file.read_text() if file.exists() else ""


def evidence_of(lab: Lab, job: str) -> Evidence:
    """What the controller says of a job that has ended, and its log."""
    said = lab.job(job)
    status, signal = (int(part) for part in said["ExitCode"].split(":"))
    return Evidence(
        state=said["JobState"].split()[0],
        exit_status=status,
        signal=signal or None,
        log_tail=log_of(lab, job),
        node=said.get("BatchHost"),
        partition=said["Partition"],
        time_limit=said["TimeLimit"],
    )


def told(evidence: Evidence) -> Diagnosis:
    found = diagnose(evidence)
    assert found is not None, evidence
    return found


def log_says(lab: Lab, job: str, words: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while words not in log_of(lab, job):
        assert time.monotonic() < deadline, log_of(lab, job)
        time.sleep(0.1)


def refused(*options: str) -> Diagnosis:
    with pytest.raises(SlurmError) as refusal:
        ask("sbatch", "--test-only", *options, "--wrap=true")
    return told(Evidence(submit_error=refusal.value.problem))


# ----------------------------------------------------------------------------------------------------------------- ends


@pytest.mark.slow
def test_a_time_limit_is_told_with_its_length_and_goes_on(lab: Lab) -> None:
    job = submitted(lab, "echo begun; sleep 300", options="--time=2")
    log_says(lab, job, "begun")
    lab.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    lab.finish(job, 90)  # the controller looks every 30 seconds
    found = told(evidence_of(lab, job))
    assert (found.cause, found.worth_another_try) == ("time-limit", True)
    log_says(lab, job, "DUE TO TIME LIMIT")
    assert told(Evidence(log_tail=log_of(lab, job))).cause == "time-limit", "also where Slurm has forgotten the job"


def test_memory_over_the_limit_is_told(lab: Lab) -> None:
    if not memory_is_limited():
        pytest.skip("optional: needs cgroup v1 with its memory controller, writable")
    job = submitted(lab, OVER_THE_LIMIT, options="--mem=60M")
    assert lab.finish(job)["JobState"] == "OUT_OF_MEMORY"
    assert told(evidence_of(lab, job)).cause == "host-out-of-memory"
    log_says(lab, job, "oom")
    assert told(Evidence(exit_status=1, log_tail=log_of(lab, job))).cause == "host-out-of-memory"


def test_memory_over_the_limit_in_a_step_is_told_though_the_job_only_failed(lab: Lab) -> None:
    if not memory_is_limited():
        pytest.skip("optional: needs cgroup v1 with its memory controller, writable")
    job = submitted(lab, "set -e", f"srun --ntasks=1 {OVER_THE_LIMIT}", options="--mem=60M")
    lab.finish(job)
    log_says(lab, job, "Out Of Memory")
    assert told(evidence_of(lab, job)).cause == "host-out-of-memory"


def test_a_cancelled_job_is_told_and_not_tried_again(lab: Lab) -> None:
    job = submitted(lab, "echo begun; sleep 300")
    log_says(lab, job, "begun")
    lab.run("scancel", job)
    lab.finish(job)
    found = told(evidence_of(lab, job))
    assert (found.cause, found.worth_another_try) == ("cancelled", False)
    log_says(lab, job, "CANCELLED AT")
    assert told(Evidence(log_tail=log_of(lab, job))).cause == "cancelled", log_of(lab, job)


@pytest.mark.slow
def test_who_cancelled_a_job_is_told_where_accounts_are_kept(accounted: Lab) -> None:
    job = submitted(accounted, "sleep 300")
    accounted.until(job, {"RUNNING"})
    accounted.run("scancel", job)
    accounted.finish(job)
    deadline = time.monotonic() + 30
    while not (known := [one for one in queue.accounted_jobs([job]) if one.state == "CANCELLED"]):
        assert time.monotonic() < deadline, queue.accounted_jobs([job])
        time.sleep(0.2)
    status = known[0]
    found = told(Evidence(state=status.state, cancelled_by=status.cancelled_by))
    assert found.sentence == f"the job was cancelled by {getpass.getuser()}"


def test_a_deadline_that_cannot_be_kept_is_told(lab: Lab) -> None:
    first = submitted(lab, "sleep 300", options="--nodes=3 --exclusive")
    lab.until(first, {"RUNNING"})
    job = submitted(lab, "true", options="--nodes=3 --exclusive --time=1 --deadline=now+1hour")
    lab.run("scontrol", "update", f"JobId={job}", "Deadline=now+30")
    lab.until(job, {"DEADLINE"})
    lab.run("scancel", first)
    assert told(evidence_of(lab, job)).cause == "deadline"


def test_a_requeued_job_is_told_and_goes_on(lab: Lab) -> None:
    job = submitted(lab, "echo begun; sleep 300", options="--requeue")
    log_says(lab, job, "begun")
    lab.run("scontrol", "requeue", job)
    log_says(lab, job, "DUE TO JOB REQUEUE")
    lab.run("scancel", job)
    found = told(Evidence(log_tail=log_of(lab, job)))
    assert (found.cause, found.worth_another_try) == ("requeued", True)


@pytest.mark.slow
def test_a_preempted_job_is_told_and_goes_on(lab: Lab) -> None:
    job = submitted(lab, "echo begun; sleep 300", options="--partition=low --exclusive --nodes=3 --requeue")
    log_says(lab, job, "begun", 60)
    higher = submitted(lab, "true", options="--partition=high --exclusive --nodes=3")
    lab.finish(higher, 60)
    log_says(lab, job, "DUE TO PREEMPTION")
    lab.run("scancel", job)
    found = told(Evidence(state="PREEMPTED", log_tail=log_of(lab, job)))
    assert (found.cause, found.worth_another_try) == ("preempted", True)
    assert told(Evidence(log_tail=log_of(lab, job))) == found


@pytest.mark.slow
def test_a_lost_node_is_told_by_its_name_and_goes_on(lab: Lab) -> None:
    if os.geteuid() != 0:
        pytest.skip("optional: needs root")
    job = submitted(lab, "echo begun; srun --ntasks=2 sleep 300", options="--partition=gpu --nodes=2 --no-requeue")
    log_says(lab, job, "begun")
    node = lab.run("scontrol", "show", "hostnames", lab.job(job)["NodeList"]).split()[-1]
    lab.lose(node)
    try:
        lab.finish(job, 90)
        found = told(evidence_of(lab, job))
    finally:
        lab.start_node(node)
        lab.until_node(node, "idle", 60)
    assert (found.cause, found.worth_another_try) == ("node-failure", True)


def test_a_log_that_cannot_be_written_is_told(lab: Lab, tmp_path: Path) -> None:
    job = lab.submit("#!/bin/bash\n#SBATCH --output=/proc/no/such/folder/%j.out\ntrue\n")
    lab.finish(job)
    found = told(evidence_of(lab, job))
    assert (found.cause, found.worth_another_try) == ("log-not-writable", False)


def test_a_program_that_the_node_does_not_have_is_told_by_its_path(lab: Lab) -> None:
    job = submitted(lab, "set -e", "srun --ntasks=1 /no/such/venv/bin/python -m clusterlm.worker run")
    lab.finish(job)
    found = told(evidence_of(lab, job))
    assert found.cause == "python-missing"
    assert "/no/such/venv/bin/python" in found.sentence


def test_a_killed_process_of_a_job_is_told(lab: Lab) -> None:
    job = submitted(lab, "set -e", "srun --ntasks=1 bash -c 'kill -9 $$'")
    lab.finish(job)
    assert told(evidence_of(lab, job)).cause == "killed"


def test_a_step_that_wants_gpus_the_job_has_not_is_told(lab: Lab) -> None:
    job = submitted(lab, "set -e", "srun --ntasks=1 --gres=gpu:1 true")
    lab.finish(job)
    assert told(evidence_of(lab, job)).cause == "gres-refused"


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("--partition=nosuch", "invalid-partition"),
        ("--time=30-0", "time-too-long"),
        ("--gres=foo:1", "gres-refused"),
        ("--gres=gpu:h100:1", "nodes-not-available"),
        ("--nodes=9", "nodes-not-available"),
        ("--mem=900G", "nodes-not-available"),
        ("--cpus-per-task=640", "nodes-not-available"),
        ("--constraint=h100", "invalid-constraint"),
        ("--nodelist=nosuch", "invalid-constraint"),
        ("--array=0-99999999", "refused-by-slurm"),
    ],
)
def test_a_request_that_slurm_refuses_is_told_with_what_to_change(lab: Lab, option: str, cause: str) -> None:
    found = refused(option)
    assert (found.cause, found.worth_another_try) == (cause, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "cause"), [("--account=nosuch", "invalid-account"), ("--qos=nosuch", "invalid-qos")]
)
def test_an_account_or_qos_that_is_not_yours_is_told(accounted: Lab, option: str, cause: str) -> None:
    assert refused(option).cause == cause


@pytest.mark.slow
def test_more_jobs_than_the_account_may_have_is_told_and_worth_another_try(accounted: Lab) -> None:
    """The QoS of the partition low: MaxSubmitJobsPerUser=5."""
    said = subprocess.run(
        ["sbatch", "--hold", "--partition=low", "--array=0-5", "--wrap=true"],
        cwd=accounted.jobs,
        capture_output=True,
        text=True,
    )
    assert said.returncode != 0
    found = told(Evidence(submit_error=said.stderr))
    assert (found.cause, found.worth_another_try) == ("limit-of-jobs", True)


def test_a_controller_that_is_silent_is_told(lab: Lab) -> None:
    lab.stop_controller()
    try:
        with pytest.raises(SlurmError) as silence:
            ask("sbatch", "--test-only", "--wrap=true", seconds=60)
    finally:
        lab.start_controller()
    found = told(Evidence(submit_error=str(silence.value)))
    assert (found.cause, found.worth_another_try) == ("controller-silent", True)
