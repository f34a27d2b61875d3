"""What became of jobs, as the queue and the accounting of a real Slurm tell it."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from clusterlm.errors import SlurmError
from clusterlm.slurm import queue
from clusterlm.slurm.jobs import JobStatus
from clusterlm.slurm.lab.configuration import memory_is_limited
from clusterlm.slurm.reasons import words
from tests.slurm.lab import Lab, start

SLEEP = "sleep 100"


def submitted(lab: Lab, body: str, *options: str) -> str:
    header = "".join(f"#SBATCH {option}\n" for option in ("--output=/dev/null", "--time=10", "--mem=100", *options))
    return lab.submit(f"#!/bin/sh\n{header}{body}\n")


def status(job: str) -> JobStatus:
    return next(one for one in queue.queued_jobs() if one.id == job)


def until(job: str, fits: Callable[[JobStatus], bool], seconds: float = 20) -> JobStatus:
    return _until(lambda: status(job), fits, seconds)


def accounted_until(job: str, fits: Callable[[JobStatus], bool], seconds: float = 20) -> JobStatus:
    """What the controller says, the database knows a moment later."""
    return _until(lambda: next(iter(queue.accounted_jobs([job])), None), fits, seconds)


def _until(look: Callable[[], JobStatus | None], fits: Callable[[JobStatus], bool], seconds: float) -> JobStatus:
    deadline = time.monotonic() + seconds
    while (seen := look()) is None or not fits(seen):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="session")
def unruly_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return start(tmp_path_factory, "unruly")


@pytest.fixture
def unruly(unruly_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """One whose nodes may break."""
    monkeypatch.setenv("SLURM_CONF", str(unruly_lab.configuration))
    return unruly_lab


# ------------------------------------------------------------------------------------------------------------- queued


def test_a_job_that_waits_for_its_time_says_when_it_will_start(lab: Lab) -> None:
    job = submitted(lab, "true", "--begin=now+1hour")
    seen = until(job, lambda seen: seen.reason is not None)
    assert (seen.state, seen.reason, seen.is_pending, seen.is_running, seen.is_ended) == (
        *("PENDING", "BeginTime"),
        *(True, False, False),
    )
    assert seen.submitted is not None and seen.expected_start is not None
    assert timedelta(minutes=59) < seen.expected_start - seen.submitted < timedelta(minutes=61)
    assert (seen.started, seen.ended, seen.exit_status, seen.signal, seen.nodes) == (None, None, None, None, "")
    assert (seen.partition, seen.limit_seconds, seen.elapsed_seconds) == ("gpu", 600, 0)
    queue.cancel(job)


@pytest.mark.parametrize(
    "option, reason",
    [("--hold", "JobHeldUser"), ("--dependency=afterany:{other}", "Dependency")],
    ids=["held", "after"],
)
def test_a_pending_job_has_its_reason_and_words_for_it(lab: Lab, option: str, reason: str) -> None:
    other = submitted(lab, "true", "--begin=now+1hour")
    job = submitted(lab, "true", option.format(other=other))
    seen = until(job, lambda seen: seen.reason == reason)
    assert f"({reason})" in words(seen.reason)
    queue.cancel([job, other])


def test_a_running_job_has_its_nodes_and_its_end(lab: Lab) -> None:
    job = submitted(lab, SLEEP, "--nodes=2", "--time=3")
    seen = until(job, lambda seen: seen.is_running)
    assert (seen.state, seen.ended, seen.exit_status) == ("RUNNING", None, None)
    assert seen.nodes.endswith("]") and seen.nodes[0] == lab.nodes()[0][0]
    assert seen.started is not None and abs(datetime.now().astimezone() - seen.started) < timedelta(seconds=30)
    end = queue.end_of(job)
    assert end is not None and end - seen.started == timedelta(minutes=3)
    queue.cancel(job)
    assert until(job, lambda seen: seen.is_ended).state == "CANCELLED"
    assert queue.end_of(job) is None
    assert queue.end_of("4000000") is None


@pytest.mark.parametrize(
    "body, state, exit_status, signal",
    [("exit 0", "COMPLETED", 0, None), ("exit 7", "FAILED", 7, None), ("kill -9 $$", "FAILED", 0, 9)],
)
def test_a_job_that_ended_says_how(lab: Lab, body: str, state: str, exit_status: int, signal: int | None) -> None:
    seen = until(submitted(lab, body), lambda seen: seen.is_ended)
    assert (seen.state, seen.exit_status, seen.signal) == (state, exit_status, signal)
    assert seen.started is not None and seen.ended is not None and seen.started <= seen.ended
    assert (seen.expected_start, seen.restarts, seen.out_of_memory) == (None, 0, False)


@pytest.mark.slow
def test_a_job_at_its_time_limit_is_told_from_one_that_failed(lab: Lab) -> None:
    job = submitted(lab, SLEEP)
    until(job, lambda seen: seen.is_running)
    lab.run("scontrol", "update", f"JobId={job}", "EndTime=now+1")  # Slurm looks every 30 seconds
    assert until(job, lambda seen: seen.is_ended, seconds=60).state == "TIMEOUT"


def test_a_job_whose_node_broke_is_told_from_one_that_failed(unruly: Lab) -> None:
    node = unruly.nodes()[0]
    job = submitted(unruly, SLEEP, "--no-requeue", f"--nodelist={node}")
    until(job, lambda seen: seen.is_running)
    unruly.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    assert until(job, lambda seen: seen.is_ended).state == "NODE_FAIL"


def test_a_job_that_was_put_back_into_the_queue_waits_and_counts(lab: Lab) -> None:
    job = submitted(lab, SLEEP, "--requeue")
    until(job, lambda seen: seen.is_running)
    lab.run("scontrol", "requeue", job)
    seen = until(job, lambda seen: seen.is_pending and seen.reason == "BeginTime")
    assert (seen.restarts, seen.started, seen.exit_status, seen.nodes) == (1, None, None, "")
    queue.cancel(job)


def test_each_task_of_an_array_has_its_own_status(lab: Lab) -> None:
    array = submitted(lab, SLEEP, "--array=0-3,7%1")
    until(f"{array}_0", lambda seen: seen.is_running)
    seen = {one.id: one for one in queue.queued_jobs() if one.array_id == array}
    assert sorted(seen) == [f"{array}_{task}" for task in (0, 1, 2, 3, 7)]
    waiting = [one.reason for one in seen.values() if one.is_pending]
    assert waiting == ["JobArrayTaskLimit"] * 4
    queue.cancel(array)
    assert until(f"{array}_7", lambda seen: seen.is_ended).state == "CANCELLED"


def test_comments_keep_their_blanks_bars_and_line_breaks(lab: Lab, tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\n#SBATCH --job-name='a | b'\ntrue\n")
    comment = "clusterlm | it's\nmine, %i"
    job = queue.submit(script, "--begin=now+1hour", comment=comment)
    assert status(job).comment == comment
    assert queue.find_by_comment(comment) == job
    assert queue.find_by_comment("clusterlm | it's") is None
    queue.cancel(job)


def test_settings_of_the_user_do_not_change_what_is_seen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submitted(lab, "true", "--begin=now+1hour")
    for name, value in {
        "SQUEUE_STATES": "RUNNING",
        "SQUEUE_FORMAT": "%i",
        "SQUEUE_PARTITION": "high",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_BITSTR_LEN": "3",
        "SCANCEL_STATE": "RUNNING",
    }.items():
        monkeypatch.setenv(name, value)
    assert status(job).submitted is not None
    queue.cancel(job)
    assert until(job, lambda seen: seen.is_ended).state == "CANCELLED"


# ---------------------------------------------------------------------------------------------------------- cancelled


def test_what_has_ended_or_never_was_is_cancelled_without_a_word(lab: Lab) -> None:
    job = submitted(lab, "exit 0")
    lab.finish(job)
    queue.cancel([job, "4000000", f"{job}_3"])
    queue.cancel([])
    assert status(job).state == "COMPLETED"


@pytest.mark.skipif(os.geteuid() != 0, reason="optional: needs root, to ask as another user")
def test_jobs_of_others_are_not_cancelled_and_named(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submitted(lab, "true", "--begin=now+1hour")
    wrapper = tmp_path / "scancel"
    wrapper.write_text('#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups /usr/bin/scancel "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SlurmError, match=f"not yours to cancel: {job}"):
        queue.cancel(job)
    monkeypatch.undo()
    lab.run("scancel", job)


def test_the_limits_of_the_cluster_are_known(lab: Lab) -> None:
    # defaults of MaxArraySize and MaxJobCount in `man slurm.conf`
    assert queue.limits() == queue.Limits(array_size=1001, jobs=10000)


# ---------------------------------------------------------------------------------------------------------- accounted


def test_where_no_accounts_are_kept_nothing_is_known_of_the_past(lab: Lab) -> None:
    assert queue.accounted_jobs(["1", "2_3"]) == ()


@pytest.mark.slow  # the database takes 5 to 15 seconds to start
class TestAccounted:
    def test_nothing_is_asked_for_no_jobs(self, accounted: Lab) -> None:
        assert queue.accounted_jobs([]) == ()
        assert queue.accounted_jobs(["4000000"]) == ()

    def test_the_steps_of_a_job_are_summed_up(self, accounted: Lab) -> None:
        job = submitted(accounted, "srun sh -c 'sleep 1.5; exit 5'; exit 7")
        seen = accounted_until(
            job, lambda seen: seen.is_ended and seen.partition != "" and seen.max_memory_bytes is not None
        )
        assert (seen.state, seen.exit_status, seen.signal, seen.steps_exit_status) == ("FAILED", 7, None, 5)
        assert seen.max_memory_bytes is not None and 100_000 < seen.max_memory_bytes < 100 * 1024**2
        assert (seen.partition, seen.limit_seconds, seen.cancelled_by) == ("gpu", 600, None)
        assert seen.started is not None and seen.ended is not None and 0 < seen.elapsed_seconds < 30

    def test_who_cancelled_a_job_is_known(self, accounted: Lab) -> None:
        job = submitted(accounted, SLEEP)
        until(job, lambda seen: seen.is_running)
        queue.cancel(job)
        seen = accounted_until(job, lambda seen: seen.is_ended)
        assert (seen.state, seen.cancelled_by) == ("CANCELLED", getpass.getuser())

    def test_the_last_life_of_a_job_counts_and_those_before_are_counted(self, accounted: Lab) -> None:
        job = submitted(accounted, SLEEP, "--requeue")
        until(job, lambda seen: seen.is_running)
        accounted.run("scontrol", "requeue", job)
        until(job, lambda seen: seen.is_pending)
        seen = accounted_until(job, lambda seen: seen.state == "PENDING" and seen.restarts == 1)
        assert seen.started is None
        queue.cancel(job)
        seen = accounted_until(job, lambda seen: seen.is_ended)
        assert (seen.state, seen.restarts) == ("CANCELLED", 1)

    def test_tasks_of_an_array_are_known_by_their_own_and_by_its_id(self, accounted: Lab) -> None:
        array = submitted(accounted, SLEEP, "--array=0-3%1")
        accounted_until(f"{array}_0", lambda seen: seen.is_running)
        assert [one.id for one in queue.accounted_jobs([f"{array}_2"])] == [f"{array}_2"]
        every = queue.accounted_jobs([array, f"{array}_1"])
        assert sorted(one.id for one in every) == [f"{array}_{task}" for task in range(4)]
        assert {one.state for one in every if one.id != f"{array}_0"} == {"PENDING"}
        queue.cancel(array)
        accounted_until(f"{array}_3", lambda seen: seen.state == "CANCELLED")

    @pytest.mark.skipif(not memory_is_limited(), reason="optional: needs memory cgroups that can be made here")
    def test_a_step_that_took_too_much_memory_is_told_although_its_job_only_failed(self, accounted: Lab) -> None:
        eats = "import time; x = bytearray(300 * 1024**2); time.sleep(5)"
        job = submitted(accounted, f"srun python3 -c '{eats}'")
        seen = accounted_until(job, lambda seen: seen.is_ended)
        assert seen.out_of_memory, seen
