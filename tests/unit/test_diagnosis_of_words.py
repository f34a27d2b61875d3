"""Why runs end badly: ends that were recorded elsewhere, and which word goes before which."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterlm.runs.causes.table import CAUSES
from clusterlm.runs.diagnosis import Evidence, diagnose
from tests.unit import recorded_ends
from tests.unit.diagnosed import told

# ------------------------------------------------------------------------------------------------------------- recorded


@pytest.mark.parametrize("end", recorded_ends.ENDS, ids=lambda end: end.cause)
def test_recorded_words_are_recognised_with_their_numbers(end: recorded_ends.RecordedEnd) -> None:
    found = told(Evidence(state="FAILED", exit_status=1, log_tail=end.log))
    assert found.cause == end.cause
    for word in end.told:
        assert word in f"{found.sentence} {found.fix}"


def test_each_row_of_the_table_has_a_test() -> None:
    here = Path(__file__).parent
    files = [*here.glob("test_diagnosis*.py"), here.parent / "slurm" / "test_causes.py"]
    tests = "".join(file.read_text() for file in files)
    shown = {end.cause for end in recorded_ends.ENDS}
    assert [cause.key for cause in CAUSES if cause.key not in shown and f'"{cause.key}"' not in tests] == []


def test_no_two_rows_have_one_key() -> None:
    keys = [cause.key for cause in CAUSES]
    assert len(set(keys)) == len(keys)


# ----------------------------------------------------------------------------------------------- which word goes before


def test_nothing_is_told_of_a_job_that_is_well_or_not_at_its_end() -> None:
    warnings = "UserWarning: CUDA out of memory is near\n"
    for evidence in (
        Evidence(state="COMPLETED", exit_status=0, log_tail=warnings),
        Evidence(state="RUNNING"),
        Evidence(state="PENDING"),
        Evidence(exit_status=0, outcome={"outcome": "finished", "exit_status": 0}),
    ):
        assert diagnose(evidence) is None


def test_an_error_of_clusterlm_is_told_in_its_own_words() -> None:
    outcome = {
        "outcome": "failed",
        "exit_status": 1,
        "kind": "ModelError",
        "problem": "the owner lets only registered users have this model",
        "where": "meta-llama/Llama-3.1-8B",
        "hint": "ask for access at https://huggingface.co/meta-llama/Llama-3.1-8B, then run: hf auth login",
    }
    found = told(Evidence(state="FAILED", exit_status=1, outcome=outcome, log_tail="Connection closed by peer"))
    assert found.cause == "gated-model"
    assert found.sentence == f"{outcome['where']}: {outcome['problem']}"
    assert found.fix == outcome["hint"]
    assert not found.worth_another_try


def test_an_error_that_a_job_printed_is_told_with_its_hint() -> None:
    log = "loading\nerror: /scratch/in.csv: has no column 'text'\nhint: did you mean 'Text'?\nsrun: error: n1: task 0\n"
    found = told(Evidence(state="FAILED", exit_status=1, log_tail=log))
    assert (found.sentence, found.fix) == ("/scratch/in.csv: has no column 'text'", "did you mean 'Text'?")
    assert not found.worth_another_try


def test_a_gpu_that_was_full_is_worth_another_try_only_after_progress() -> None:
    outcome = {
        "outcome": "failed",
        "kind": "OutOfMemoryError",
        "problem": "CUDA out of memory. Tried to allocate 2.00 GiB.",
    }
    found = told(Evidence(exit_status=70, outcome={**outcome, "new_results": 0}))
    assert (found.cause, found.worth_another_try) == ("gpu-out-of-memory", False)
    assert "2.00 GiB" in found.sentence
    assert told(Evidence(exit_status=70, outcome={**outcome, "new_results": 5})).worth_another_try
    assert told(Evidence(exit_status=70, outcome=outcome, new_results=5)).worth_another_try


def test_a_process_that_lost_its_partner_leaves_the_word_to_the_partner() -> None:
    outcome = {"outcome": "failed", "kind": "RuntimeError", "problem": "Connection closed by peer [127.0.0.1]:15751"}
    log = "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.\n"
    assert told(Evidence(state="FAILED", outcome=outcome, log_tail=log)).cause == "host-out-of-memory"
    assert told(Evidence(state="FAILED", outcome=outcome)).cause == "partner-lost"


def test_a_failure_goes_before_the_time_limit_that_the_others_waited_for() -> None:
    outcome = {"outcome": "failed", "kind": "KeyError", "problem": "'a'"}
    assert told(Evidence(state="TIMEOUT", outcome=outcome)).sentence == "the program failed: KeyError: 'a'"
    assert told(Evidence(state="TIMEOUT", time_limit="1:00:00")).sentence == "the time limit of 1:00:00 was reached"


def test_an_end_from_outside_goes_before_what_dying_processes_say() -> None:
    log = "Traceback (most recent call last):\n  File x\nConnectionError: gone\n"
    for state, cause in {
        "NODE_FAIL": "node-failure",
        "PREEMPTED": "preempted",
        "OUT_OF_MEMORY": "host-out-of-memory",
    }.items():
        assert told(Evidence(state=state, exit_status=1, log_tail=log)).cause == cause
    assert told(Evidence(state="FAILED", step_out_of_memory=True, log_tail=log)).cause == "host-out-of-memory"


def test_a_stop_in_time_is_no_failure_and_goes_on() -> None:
    outcome = {"outcome": "stopped", "exit_status": 75, "reason": "time limit", "new_results": 7}
    for evidence in (Evidence(exit_status=75, outcome=outcome), Evidence(state="FAILED", exit_status=75)):
        found = told(evidence)
        assert (found.cause, found.worth_another_try) == ("stopped-in-time", True)


def test_a_stop_by_a_signal_is_told_by_whom_where_the_log_says_it() -> None:
    outcome = {"outcome": "stopped", "exit_status": 143, "reason": "SIGTERM"}
    assert told(Evidence(exit_status=143, outcome=outcome)).cause == "stopped"
    line = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T14:00:00 DUE TO PREEMPTION ***\n"
    assert told(Evidence(exit_status=143, outcome=outcome, log_tail=line)).cause == "preempted"


def test_a_rank_that_was_killed_goes_before_those_that_stopped_because_of_it() -> None:
    outcome = {"outcome": "stopped", "exit_status": 143, "reason": "SIGTERM"}
    assert told(Evidence(exit_status=137, outcome=outcome)).cause == "killed"


def test_records_that_failed_are_told_with_their_number() -> None:
    outcome = {"outcome": "finished", "exit_status": 3, "failed_records": 12}
    found = told(Evidence(state="FAILED", exit_status=3, outcome=outcome))
    assert found.sentence == "the work is done, but 12 of the records failed"


def test_what_went_wrong_before_the_job_started_anew_is_not_told_again() -> None:
    before = "OSError: [Errno 116] Stale file handle: '/x'\n"
    line = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-21T14:00:00 DUE TO PREEMPTION ***\n"
    after = "OSError: [Errno 28] No space left on device: '/y'\n"
    assert told(Evidence(exit_status=1, log_tail=before + line + after)).cause == "disk-full"
    assert told(Evidence(log_tail=before + line)).cause == "preempted"


def test_a_warning_does_not_hide_the_error_that_came_after_it() -> None:
    log = (
        "'[Errno -2] Name or service not known' thrown while requesting HEAD https://huggingface.co/a/b\n"
        "Traceback (most recent call last):\n  File x\nZeroDivisionError: division by zero\n"
    )
    assert "ZeroDivisionError" in told(Evidence(exit_status=1, log_tail=log)).sentence
    assert told(Evidence(exit_status=1, log_tail=log.splitlines()[0])).cause == "no-network"


def test_an_unknown_cause_is_told_as_unknown_with_the_place_of_the_log() -> None:
    log = "loading\nsomething odd\nsrun: error: node1: task 0: Exited with exit code 5\n"
    found = told(Evidence(state="FAILED", exit_status=5, log_tail=log, log="/runs/a.run/logs/12.out"))
    assert found.cause == "unknown"
    assert "something odd" in found.sentence
    assert found.fix == "read the log: /runs/a.run/logs/12.out"


def test_an_attempt_that_left_nothing_is_worth_another_try() -> None:
    found = told(Evidence())
    assert (found.cause, found.worth_another_try) == ("unknown", True)


def test_a_long_line_is_cut() -> None:
    log = f"Traceback (most recent call last):\n  File x\nValueError: {'x' * 5000}\n"
    assert len(told(Evidence(exit_status=1, log_tail=log)).sentence) < 400


def test_a_refusal_that_no_row_knows_is_told_in_slurms_words() -> None:
    found = told(Evidence(submit_error="sbatch: error: Batch job submission failed: The moon is full"))
    assert (found.cause, found.sentence) == ("refused-by-slurm", "Slurm refuses the job: The moon is full")
    assert told(Evidence(submit_error="the site's own words")).sentence == "Slurm refuses the job: the site's own words"


# ----------------------------------------------------------------------------------------------------------- the page


def test_the_page_of_causes_is_the_table() -> None:
    from clusterlm.runs.causes.cause import filled

    page = (Path(__file__).parents[2] / "docs" / "reference" / "causes.md").read_text()
    rows = [
        f"| `{cause.key}` | {filled(cause.sentence, {})} | {filled(cause.fix, {})} | {cause.again} |"
        for cause in CAUSES
    ]
    shown = [line for line in page.splitlines() if line.startswith("| `")]
    assert shown == rows, "write these rows into docs/reference/causes.md:\n" + "\n".join(rows)
