"""Jobs of one run are killed, stopped and run out of time: the answers are those of a run that nothing disturbed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from clusterlm.errors import RunError
from clusterlm.runs.folder import RunFolder
from clusterlm.worker import admission, job, meeting
from clusterlm.worker.place import Place
from clusterlm.worker.ranks import Ranks
from tests.chaos.jobs import (
    ONE_THREAD,
    Worker,
    all_results,
    attempt,
    end_all,
    indices_in,
    outcome,
    prepared,
    ranks_of,
    work_here,
    worker,
)
from tests.chaos.test_kills import RECORDS, command, write_prompts
from tests.sharing import shared_between_workers

SETTINGS = {"max_new_tokens": 40, "max_batch_tokens": 600}
"""Those of `command`: a small budget makes the run long and lets records finish all the time."""


@pytest.fixture(scope="module")
def undisturbed(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """prompts.txt, and answers.jsonl that one process made alone."""

    def make(folder: Path) -> None:
        write_prompts(folder / "prompts.txt")
        arguments = command(tiny("llama"), folder / "prompts.txt", folder / "answers.jsonl")
        subprocess.run(arguments, check=True, capture_output=True, env={**os.environ, **ONE_THREAD})

    return shared_between_workers(tmp_path_factory, "undisturbed", make)


@pytest.fixture
def run(undisturbed: Path, tiny: Callable[[str], Path], tmp_path: Path) -> RunFolder:
    return prepared(tiny("llama"), undisturbed / "prompts.txt", tmp_path / "answers.jsonl", **SETTINGS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """In this process too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    end_all()


def answers(run: RunFolder) -> Path:
    return run.path.with_suffix("")


def assert_as_undisturbed(run: RunFolder, undisturbed: Path) -> None:
    assert all_results(run) == list(range(RECORDS)), "a record is lost, or was computed twice"
    assert answers(run).read_bytes() == (undisturbed / "answers.jsonl").read_bytes()
    finished = run.finished()
    assert finished is not None
    assert (finished.requests, finished.done, finished.failed) == (RECORDS, RECORDS, 0)


def shards(run: RunFolder, number: int) -> list[Worker]:
    return [worker(run, attempt(run, shard, number)) for shard in range(number)]


@pytest.mark.slow
def test_killed_shards_their_successors_another_number_of_shards_and_a_local_end(
    run: RunFolder, undisturbed: Path, tiny: Callable[[str], Path]
) -> None:
    moments = random.Random(int(os.environ.get("CLUSTERLM_CHAOS_SEED", "7")))
    alive = shards(run, 4)
    while alive:
        for started in [one for one in alive if one.results()]:
            time.sleep(moments.random() * 0.1)
            assert started.end(signal.SIGKILL)[0] == -signal.SIGKILL
            torn = started.attempt.file("results.jsonl")
            torn.write_bytes(torn.read_bytes() + b'{"index": 1, "id": "1')
            alive.remove(started)
        time.sleep(0.02)
    after_kills = all_results(run)
    assert 0 < len(after_kills) < RECORDS

    killed, first, second = shards(run, 3)
    killed.wait_for_results()
    killed.end(signal.SIGKILL)
    for started in (first, second):
        status, said = started.end()
        assert status == 0, said
        assert re.search(r"part done, \d+ records are with other shards", said)
        assert outcome(started.attempt)["outcome"] == "finished"
    assert not answers(run).exists()
    assert len(all_results(run)) > len(after_kills)

    arguments = command(tiny("llama"), undisturbed / "prompts.txt", answers(run))
    local = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    assert local.returncode == 0, local.stderr
    assert "records are done already; continuing" in local.stderr
    assert_as_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_jobs_continue_what_a_local_process_began_and_end_together(run: RunFolder, undisturbed: Path) -> None:
    log = run.path / "results.jsonl"
    with pytest.raises(job.Interrupted):
        job.run_job(run, lambda _: None, lambda: "SIGTERM" if indices_in(log) else None)
    before = log.read_bytes()
    assert before
    with run.locked(), pytest.raises(RunError, match="another process works"), Place(run, attempt(run)).locked():
        pass
    both = shards(run, 2)
    both[0].wait_for_results()
    with pytest.raises(RunError, match="another process works on this run"), run.locked():
        pass
    ends = [started.end() for started in both]
    assert [status for status, _ in ends] == [0, 0], ends
    assert log.read_bytes() == before
    assert_as_undisturbed(run, undisturbed)


def test_where_nothing_is_missing_the_answers_are_written_and_no_model_is_loaded(
    run: RunFolder, undisturbed: Path
) -> None:
    shutil.copy(undisturbed / "answers.jsonl.run" / "results.jsonl", attempt(run).file("results.jsonl"))
    again = attempt(run, 1, 3)
    assert work_here(run, again) == 0
    assert not again.file("environment.json").exists()
    assert_as_undisturbed(run, undisturbed)
    assert json.loads(again.file("progress.json").read_bytes())["done"] == RECORDS // 3


# --------------------------------------------------------------------------------------------------- time and signals


def test_near_the_time_limit_nothing_new_is_begun_and_what_was_begun_is_finished(
    run: RunFolder, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(admission, "SECONDS_TO_WRITE", 0.5)
    begun: list[int] = []
    begin = admission.Admission.begin
    monkeypatch.setattr(admission.Admission, "begin", lambda self, index: (begun.append(index), begin(self, index))[1])
    attempts = 0
    while not answers(run).exists():
        attempts += 1
        begun.clear()
        started = attempt(run, ends=time.time() + 3)
        place = Place(run, started)
        try:
            job.run_part(place, lambda _: None, lambda: None)
        except job.Interrupted as stop:
            assert stop.reason == "time limit"
        assert sorted(indices_in(place.results)) == sorted(set(begun)), "what was begun was not finished"
        assert attempts < 40
    assert attempts > 1, "the limit was too long for this test"
    assert_as_undisturbed(run, undisturbed)


def test_a_limit_that_leaves_no_time_to_begin_ends_with_75_before_loading(run: RunFolder) -> None:
    started = attempt(run, ends=time.time() + 15)
    assert work_here(run, started) == 75
    assert outcome(started) == {
        "outcome": "stopped",
        "exit_status": 75,
        "reason": "time limit",
        "problem": None,
        "where": None,
        "hint": None,
        "kind": None,
        "new_results": 0,
        "failed_records": 0,
    }
    assert all_results(run) == []


def test_a_signal_stops_between_two_steps_and_more_of_them_break_nothing(run: RunFolder) -> None:
    started = worker(run, attempt(run))
    started.wait_for_results()
    for _ in range(3):
        started.process.send_signal(signal.SIGUSR1)
    status, said = started.end(signal.SIGTERM)
    assert status == 128 + signal.SIGUSR1, said
    assert "Traceback" not in said
    told = outcome(started.attempt)
    assert (told["outcome"], told["exit_status"], told["reason"]) == ("stopped", 128 + signal.SIGUSR1, "SIGUSR1")
    assert told["new_results"] == len(started.results())


def test_the_warning_of_a_limit_that_is_known_anyway_stops_nothing(run: RunFolder, undisturbed: Path) -> None:
    started = worker(run, attempt(run, ends=time.time() + 190))
    started.wait_for_results()
    status, said = started.end(signal.SIGUSR1)
    assert status == 0, said
    assert_as_undisturbed(run, undisturbed)


def test_a_signal_during_the_import_is_obeyed_at_once(run: RunFolder) -> None:
    started = worker(run, attempt(run))
    while b"libtorch_cpu" not in Path(f"/proc/{started.process.pid}/maps").read_bytes():
        time.sleep(0.01)
    sent = time.monotonic()
    status, said = started.end(signal.SIGUSR1)
    assert status == 128 + signal.SIGUSR1, said
    assert time.monotonic() - sent < 10
    assert outcome(started.attempt)["reason"] == "SIGUSR1"
    assert not started.attempt.file("environment.json").exists()


# ----------------------------------------------------------------------------------------------------------- failures


def test_an_error_to_be_mended_is_told_in_the_outcome(
    tiny: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny("llama").iterdir():
        (model / file.name).symlink_to(file)
    (tmp_path / "in.txt").write_text("one\n")
    run = prepared(model, tmp_path / "in.txt", tmp_path / "out.jsonl", quantize="int8")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text("{broken")
    started = attempt(run)
    assert work_here(run, started) == 1
    assert "Traceback" not in capsys.readouterr().err
    told = outcome(started)
    assert (told["outcome"], told["exit_status"], told["kind"]) == ("failed", 1, "ModelError")
    assert told["problem"].startswith("the tokenizer cannot be loaded")
    assert told["where"] == str(model)


def test_an_unexpected_exception_ends_with_70_its_traceback_in_the_log(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    content = run.read()
    del content["model_fingerprint"]
    (run.path / "run.json").write_text(json.dumps(content))
    started = attempt(run)
    assert work_here(run, started) == 70
    assert "Traceback" in capsys.readouterr().err
    assert (outcome(started)["kind"], outcome(started)["exit_status"]) == ("KeyError", 70)


def test_records_that_fail_make_it_3(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"prompt": "short"}, {"prompt": None}, {"prompt": "last"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = prepared(tiny("llama"), tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_new_tokens=2)
    for shard, expected in enumerate((0, 3)):
        started = attempt(run, shard, 2)
        assert work_here(run, started) == expected
        assert outcome(started)["exit_status"] == expected
        assert outcome(started)["failed_records"] == (1 if expected else 0)
    finished = run.finished()
    assert finished is not None
    assert (finished.requests, finished.done, finished.failed) == (3, 2, 1)


# -------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_its_job_and_the_next_attempt_ends_the_run(
    run: RunFolder, undisturbed: Path
) -> None:
    first = worker(run, attempt(run), ranks=2)
    first.wait_for_results(4)
    killed = time.monotonic()
    os.kill(ranks_of(first)[1], signal.SIGKILL)
    status, said = first.end()
    assert status not in (0, 3), said
    assert time.monotonic() - killed < 60
    assert "rank 0 of 2 on " in said and "rank 1 of 2 on " in said
    assert outcome(first.attempt)["reason"] == "SIGTERM"  # torchrun's, to those that are left
    assert not first.attempt.file("outcome.json", 1).exists()

    told_one = worker(run, attempt(run), ranks=2)
    told_one.wait_for_results()
    os.kill(ranks_of(told_one)[1], signal.SIGUSR1)
    status, said = told_one.end()
    assert status == 0, said
    assert [outcome(told_one.attempt, rank)["exit_status"] for rank in (0, 1)] == [128 + signal.SIGUSR1] * 2

    last = worker(run, attempt(run), ranks=2)
    status, said = last.end()
    assert status == 0, said
    assert [outcome(last.attempt, rank)["exit_status"] for rank in (0, 1)] == [0, 0]
    assert {rank for rank in (0, 1) if indices_in(last.attempt.file("results.jsonl", rank))} == {0, 1}
    assert_as_undisturbed(run, undisturbed)


def test_ranks_that_do_not_reach_each_other_say_so_and_which_network_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here because the other never comes; an interface that does not exist or leads nowhere is told in the same way."""
    monkeypatch.setattr(meeting, "SECONDS_TO_MEET", 1)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "ib0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="the ranks do not reach each other: ") as caught:
        meeting.Meeting(Ranks(0, 2, 0, 1), lambda: None)
    assert caught.value.hint is not None and "GLOO_SOCKET_IFNAME" in caught.value.hint and "ib0" in caught.value.hint
    assert caught.value.where is not None and caught.value.where.startswith("rank 0 on ")
