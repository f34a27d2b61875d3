"""When a run that was cut off goes on, and when it had better not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusterlm.runs import journal
from clusterlm.runs.attempt import Attempt, Part
from clusterlm.runs.chain import Caps, Past, why_not_continue
from clusterlm.runs.diagnosis import Evidence, diagnose
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.told import attempts_of, chain_of, told


def past(number: int = 1, *, new_results: int = 5, seconds: float = 60.0, **evidence: Any) -> Past:
    """An attempt that ended so; by itself stopped before its time limit."""
    told: dict[str, Any] = {"state": "FAILED", "exit_status": 75, "new_results": new_results}
    told |= evidence
    return Past(
        attempt=Attempt(path=Path(f"attempts/{number}"), began=0.0, job=str(100 + number)),
        seconds=seconds,
        new_results=new_results,
        state=told["state"],
        cancelled_by=told.get("cancelled_by"),
        diagnosis=diagnose(Evidence(**told)),
    )


def test_a_first_attempt_may_always_begin() -> None:
    assert why_not_continue([], Caps()) is None


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED", "FAILED"])
def test_an_attempt_that_was_cut_off_is_continued(state: str) -> None:
    assert why_not_continue([past(state=state)], Caps()) is None


def test_what_a_user_cancels_stays_cancelled() -> None:
    reason = why_not_continue([past(state="CANCELLED", cancelled_by="ada")], Caps())
    assert reason == "job 101 was cancelled by ada"


def test_where_another_try_would_not_help_none_is_made() -> None:
    outcome = {
        "outcome": "failed",
        "exit_status": 1,
        "kind": "ModelError",
        "problem": "the weights are damaged",
        "new_results": 3,
        "hint": "fetch them again",
    }
    reason = why_not_continue([past(exit_status=1, outcome=outcome)], Caps())
    assert reason is not None
    assert reason.startswith("another try would not help: ")
    assert "the weights are damaged" in reason


def test_two_attempts_in_a_row_without_a_record_end_the_chain() -> None:
    crash = {"exit_status": 70, "log_tail": "ValueError: what nobody foresaw\n"}
    fruitless = [past(1, new_results=0, **crash), past(2, new_results=0, **crash)]
    reason = why_not_continue(fruitless, Caps())
    assert reason is not None
    assert reason.startswith("2 attempts in a row finished no record")
    assert "what nobody foresaw" in reason
    assert why_not_continue([fruitless[0], past(2, **crash)], Caps()) is None, "the second finished some"


def test_failures_of_the_cluster_are_not_the_runs() -> None:
    lost = [past(number, new_results=0, state="NODE_FAIL") for number in range(1, 6)]
    assert why_not_continue(lost, Caps()) is None


def test_a_preempted_job_that_is_just_ending_ends_no_chain() -> None:
    crash = past(1, new_results=0, exit_status=70, log_tail="ValueError: what nobody foresaw\n")
    outcome = {"outcome": "stopped", "exit_status": 143, "reason": "SIGTERM"}
    log = "slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-21T15:38:02 DUE TO PREEMPTION ***\n"
    preempted = past(2, new_results=0, state=None, exit_status=143, outcome=outcome, log_tail=log)
    assert preempted.diagnosis is not None
    assert preempted.diagnosis.cause == "preempted"
    assert why_not_continue([crash, preempted], Caps()) is None


def test_the_number_of_attempts_is_capped() -> None:
    many = [past(number) for number in (1, 2, 3)]
    assert why_not_continue(many, Caps(attempts=4)) is None
    assert why_not_continue(many, Caps(attempts=3)) == "3 attempts are over, as many as were allowed"


def test_the_time_of_all_attempts_is_capped() -> None:
    spent = [past(1, seconds=1800), past(2, seconds=1800)]
    assert why_not_continue(spent, Caps(seconds=3601)) is None
    assert why_not_continue(spent, Caps(seconds=3600)) == "1:00:00 h are spent, of 1:00:00 h that were allowed"


def started(run: RunFolder, job: str, *, successor: str | None = None, restarts: int = 0) -> Attempt:
    attempt = Attempt(path=run.new_attempt(), began=0.0, job=job, restarts=restarts)
    attempt.write()
    journal.note(attempt.journal, "started", "works on node1", job=job)
    if successor is not None:
        journal.note(attempt.journal, "successor", "goes on", job=job, successor=successor, after=job)
    return attempt


def chain(run: RunFolder, job: str) -> list[int]:
    return [one.attempt.number for one in chain_of(told(attempts_of(run)), job)]


def test_a_chain_is_a_job_with_those_that_queued_it_and_their_earlier_starts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    started(run, "11", successor="12")
    started(run, "11", restarts=1)
    started(run, "12", successor="13")
    assert chain(run, "13") == [1, 2, 3]
    assert chain(run, "12") == [1, 2, 3]
    assert chain(run, "11") == [1, 2]


def test_a_job_that_a_user_queued_begins_a_chain(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for job, after in (("11", "12"), ("12", "13"), ("13", None)):
        started(run, job, successor=after)
    assert chain(run, "20") == []
    started(run, "20", successor="21")
    assert chain(run, "21") == [4]


def test_a_job_that_had_nothing_to_do_is_no_attempt_of_a_chain(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    started(run, "11", successor="12")
    started(run, "12", successor="13")
    idle = started(run, "11", restarts=1)
    journal.note(idle.journal, "given up", "job 12 works on this already", job="11")
    assert chain(run, "13") == [1, 2]


def test_an_entry_after_a_torn_one_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"time": 3, "event": "submitt')
    journal.note(path, "submitted", "job 1 is queued", job="1")
    journal.note(path, "cancelled", "taken back", jobs=["1"])
    assert [entry.event for entry in journal.read([path])] == ["submitted", "cancelled"]


@pytest.mark.parametrize(("shards", "ranks"), [(1, 1), (6, 1), (1, 4), (5, 3)])
def test_every_record_is_in_exactly_one_part(shards: int, ranks: int) -> None:
    parts = [Part(shard, shards, rank, ranks) for shard in range(shards) for rank in range(ranks)]
    for index in range(50):
        assert sum(index in part for part in parts) == 1
    sizes = [part.size(50) for part in parts]
    assert sum(sizes) == 50
    assert [sum(index in part for index in range(50)) for part in parts] == sizes
    assert max(sizes) - min(sizes) <= 2, "none has much more than its share"


def test_a_journal_is_read_in_the_order_of_time_from_all_its_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    journal.note(first, "submitted", "job 1 is queued", job="1")
    journal.note(second, "started", "works on node1", job="1", shard=0)
    journal.note(first, "cancelled", "taken back", jobs=["1"])
    read = journal.read([second, first])
    assert [entry.event for entry in read] == ["submitted", "started", "cancelled"]
    assert read[1].details == {"shard": 0}


def test_a_torn_last_line_of_a_journal_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal.note(path, "submitted", "job 1 is queued", job="1")
    with open(path, "a") as file:
        file.write('{"time": 3, "event": "sta')
    assert [entry.said for entry in journal.read([path, tmp_path / "none.jsonl"])] == ["job 1 is queued"]
