"""What squeue and sacct printed (recorded from Slurm 22.05, unless said otherwise), read as values."""

from __future__ import annotations

from datetime import datetime

import pytest

from clusterlm.slurm import sacct, squeue
from clusterlm.slurm.jobs import JobStatus, each_task, time_of


def recorded(text: str) -> str:
    """Written here with ~ for the separator, which does not print."""
    return text.replace("~", "\x1f")


QUEUE = recorded("""\
5~FAILED~NonZeroExitCode~2026-11-21T14:21:38~2026-11-21T14:21:38~2026-11-21T14:21:40~0:02~1-00:00:00~node3~1792~0~a100~(null)~
6~FAILED~JobLaunchFailure~2026-11-21T14:21:38~2026-11-21T14:21:38~2026-11-21T14:21:38~0:00~1-00:00:00~node3~9~0~a100~two
lines | a bar~
2_3~PENDING~JobArrayTaskLimit~2026-11-21T14:17:53~N/A~N/A~0:00~UNLIMITED~~0~0~gpu~(null)~
4~PENDING~BeginTime~2026-11-21T14:17:53~2026-11-21T15:17:53~2026-11-21T15:27:53~0:00~10:00~~0~1~gpu~(null)~
1~RUNNING~None~2026-11-21T14:17:53~2026-11-21T14:21:38~2026-11-21T14:31:38~0:05~10:00~node[2-3]~0~0~gpu~clusterlm:x~
22~FAILED~BadConstraints~2026-11-21T14:40:58~2026-11-21T14:40:58~2026-11-21T14:40:58~0:00~10:00~~1~0~gpu~ref1~
""")

ACCOUNTS = recorded("""\
27~FAILED~1:0~0:125~None~2026-11-21T14:42:57~2026-11-21T14:42:58~2026-11-21T14:43:08~10~10~c1node1~gpu~~clusterlm:y~
27.batch~FAILED~1:0~~~2026-11-21T14:42:58~2026-11-21T14:42:58~2026-11-21T14:43:08~10~~c1node1~~1104K~~
27.0~OUT_OF_MEMORY~0:125~~~2026-11-21T14:42:58~2026-11-21T14:42:58~2026-11-21T14:43:08~10~~c1node1~~81.5M~~
5~REQUEUED~0:0~0:0~None~2026-11-21T14:21:43~2026-11-21T14:21:44~2026-11-21T14:21:47~3~5~c1node1~high~~~
5.batch~CANCELLED~0:15~~~2026-11-21T14:21:44~2026-11-21T14:21:44~2026-11-21T14:21:47~3~~c1node1~~3164K~~
4_0~RUNNING~0:0~0:0~None~2026-11-21T14:21:43~2026-11-21T14:21:44~Unknown~12~Partition_Limit~c1node1~v100~~~
4_0.batch~RUNNING~0:0~~~2026-11-21T14:21:44~2026-11-21T14:21:44~Unknown~12~~c1node1~~~~
4_[2,4-5%2]~CANCELLED by 4294967~0:0~0:0~JobArrayTaskLimit~2026-11-21T14:21:43~2026-11-21T14:22:57~2026-11-21T14:22:57~0~1440~None assigned~v100~~~
5~CANCELLED by 0~0:0~0:0~BeginTime~2026-11-21T14:21:47~2026-11-21T14:21:52~2026-11-21T14:21:56~4~5~c1node1~high~~~
5.batch~CANCELLED~0:15~~~2026-11-21T14:21:52~2026-11-21T14:21:52~2026-11-21T14:21:57~5~~c1node1~~3236K~~
""")  # noqa: E501  recorded as they are


@pytest.fixture
def queued() -> dict[str, JobStatus]:
    return {one.id: one for one in squeue.statuses_of(QUEUE)}


@pytest.fixture
def accounted() -> dict[str, JobStatus]:
    return {one.id: one for one in sacct.statuses_of(ACCOUNTS)}


def test_every_job_of_the_queue_is_read_though_a_comment_has_two_lines(queued: dict[str, JobStatus]) -> None:
    assert list(queued) == ["5", "6", "2_3", "4", "1", "22"]
    assert queued["6"].comment == "two\nlines | a bar"
    assert squeue.statuses_of("") == squeue.statuses_of("\n") == ()


def test_a_wait_status_is_an_exit_status_or_a_signal(queued: dict[str, JobStatus]) -> None:
    assert (queued["5"].exit_status, queued["5"].signal) == (7, None)  # 1792 = 7 * 256
    assert (queued["6"].exit_status, queued["6"].signal) == (0, 9)


def test_what_has_not_happened_is_none(queued: dict[str, JobStatus]) -> None:
    waiting = queued["4"]
    assert (waiting.started, waiting.ended, waiting.exit_status, waiting.restarts) == (None, None, None, 1)
    assert waiting.expected_start == datetime(2026, 11, 21, 15, 17, 53).astimezone()
    assert (queued["2_3"].expected_start, queued["2_3"].limit_seconds, queued["2_3"].array_id) == (None, None, "2")
    running = queued["1"]
    assert (running.ended, running.exit_status, running.elapsed_seconds, running.limit_seconds) == (None, None, 5, 600)
    assert running.started == datetime(2026, 11, 21, 14, 21, 38).astimezone()


def test_a_job_that_was_refused_and_is_remembered_is_told_from_one_that_failed(queued: dict[str, JobStatus]) -> None:
    assert [one.id for one in queued.values() if one.was_refused] == ["22"]
    assert queued["22"].started is None


def test_every_job_of_the_accounting_is_read_with_its_last_life(accounted: dict[str, JobStatus]) -> None:
    assert sorted(accounted) == ["27", "4_0", "4_2", "4_4", "4_5", "5"]
    again = accounted["5"]
    assert (again.state, again.cancelled_by, again.restarts, again.elapsed_seconds) == ("CANCELLED", "root", 1, 4)
    assert accounted["4_2"].cancelled_by == "4294967", "a user who is gone keeps the number"
    assert accounted["4_2"].started is None
    assert sacct.statuses_of("") == ()


def test_steps_say_what_their_job_does_not(accounted: dict[str, JobStatus]) -> None:
    job = accounted["27"]
    assert (job.state, job.exit_status, job.out_of_memory) == ("FAILED", 1, True)
    assert job.max_memory_bytes == round(81.5 * 1024**2)
    assert not accounted["5"].out_of_memory
    assert (accounted["4_0"].max_memory_bytes, accounted["4_0"].limit_seconds) == (None, None)


@pytest.mark.parametrize(
    "text, tasks",
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[2-4,7%2]", ["12_2", "12_3", "12_4", "12_7"]),
        ("12_[0-8:4]", ["12_0", "12_4", "12_8"]),
        ("12_[1,3,...]", ["12_1", "12_3"]),  # as Slurm cuts a long list where SLURM_BITSTR_LEN says so
    ],
)
def test_tasks_that_wait_together_are_told_apart(text: str, tasks: list[str]) -> None:
    assert each_task(text) == tasks


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", ""])
def test_a_time_that_is_not_known_is_none(text: str) -> None:
    assert time_of(text) is None


@pytest.mark.parametrize(
    "state, kind",
    [
        *((state, "pending") for state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")),
        *((state, "running") for state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING")),
        *((state, "ended") for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")),
        *((state, "ended") for state in ("OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "REVOKED")),
    ],
)
def test_a_job_is_pending_or_running_or_ended(state: str, kind: str) -> None:
    (status,) = squeue.statuses_of(
        recorded(f"1~{state}~None~N/A~N/A~N/A~0:00~10:00~node1~0~0~gpu~(null)~")  # made, not recorded
    )
    kinds = {"pending": status.is_pending, "running": status.is_running, "ended": status.is_ended}
    assert [name for name, fits in kinds.items() if fits] == [kind]
