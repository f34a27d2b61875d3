"""A training as a job, as far as no Slurm is needed: what its plan is asked and decides, what is looked at before."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterlm.cluster import Cluster, find_cluster
from clusterlm.errors import MissingPackage, RunError, UsageError
from clusterlm.model.find import find_model
from clusterlm.planning.wishes import Wishes
from clusterlm.runs import launch
from clusterlm.runs import order as order_module
from clusterlm.runs.asked import Asked
from clusterlm.runs.at_once import rows_at_once
from clusterlm.runs.attempt import Attempt, write_json
from clusterlm.runs.before.plan import of_idle_gpus, of_ram, of_time
from clusterlm.runs.before.room import of_room
from clusterlm.runs.chain import Caps, Past, why_not_continue
from clusterlm.runs.decided import asked_of_job
from clusterlm.runs.folder import RunFolder, folder_for, open_run
from clusterlm.runs.gained import count_results
from clusterlm.runs.order import Order, Terms, order
from clusterlm.runs.past import past_of
from clusterlm.runs.submit import write_order
from clusterlm.runs.told import told
from clusterlm.spec import TrainSpec, make_spec

MISTRAL = "mistralai/Mistral-7B-v0.1"


@pytest.fixture
def lumi() -> Cluster:
    return find_cluster("lumi")


def wanted(folder: Path, examples: int = 1000, **settings: object) -> Asked[TrainSpec]:
    """Examples of 400 characters each, about 100 tokens."""
    data = folder / "texts.txt"
    data.write_text(f"{'some text ' * 40}\n" * examples)
    spec = make_spec(TrainSpec, {"model": "m", "input": str(data), "output": str(folder / "out"), **settings})
    return Asked(spec, data, MISTRAL, folder, "f", examples, "d")


def ordered(asked: Asked[TrainSpec], cluster: Cluster, placing: Wishes | None = None, **terms: Any) -> Order:
    said = Terms(account="project_1", **terms)
    return order(asked, folder_for(asked.spec), cluster, find_model(MISTRAL), placing or Wishes(), said)


# ---------------------------------------------------------------------------------------------- what the plan is asked


def test_the_work_is_guessed_from_the_texts_until_they_are_tokens(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, epochs=3)
    made = ordered(asked, lumi)
    assert made.best.amount.tokens == pytest.approx(3 * 1000 * 100, rel=0.01)
    assert made.steps == 3 * 16, "1000 examples in steps of 64"
    data = folder_for(asked.spec).data
    data.mkdir(parents=True)
    (data / "learned.json").write_text(json.dumps({"table": {"sequences": 2000, "tokens": 500_000}}))
    made = ordered(asked, lumi)
    assert (made.best.amount.tokens, made.steps) == (1_500_000, 3 * 32)


def test_steps_that_were_asked_for_are_the_work(lumi: Cluster, tmp_path: Path) -> None:
    made = ordered(wanted(tmp_path, max_steps=5, global_batch_size=8, eval_fraction=0.1), lumi)
    assert made.steps == 5
    assert made.best.amount.tokens == pytest.approx(5 * 8 * 100, rel=0.01)


def test_what_the_user_says_wins_over_the_plan(lumi: Cluster, tmp_path: Path) -> None:
    own = {"strategy": "zero2", "micro_batch": 2, "gradient_checkpointing": True, "gpus": 8, "offload": "optimizer-cpu"}
    made = ordered(wanted(tmp_path, **own), lumi)
    settings = made.submission.settings
    assert settings is not None
    assert {name: settings[name] for name in own if name != "gpus"} == {n: v for n, v in own.items() if n != "gpus"}
    assert (made.job.nodes, made.job.ranks) == (1, 8)


def test_without_deepspeed_the_plan_takes_another_way_and_a_user_who_asks_for_it_is_told(
    lumi: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(order_module, "find_spec", lambda name: name)
    assert ordered(wanted(tmp_path), lumi, Wishes(gpus=8)).best.way.strategy.startswith("zero")
    for module in (order_module, launch):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    assert ordered(wanted(tmp_path), lumi, Wishes(gpus=8)).best.way.strategy == "fsdp"
    with pytest.raises(MissingPackage, match="training needs deepspeed"):
        launch.check_packages(wanted(tmp_path, strategy="zero2").spec)


def test_the_processes_of_a_job_are_one_for_each_gpu_also_over_nodes(lumi: Cluster, tmp_path: Path) -> None:
    made = ordered(wanted(tmp_path), lumi, Wishes(nodes=2))
    assert (made.job.nodes, made.job.gpus_per_node, made.job.ranks_per_node) == (2, 8, 8)
    assert "--nnodes=2 --nproc-per-node=8" in made.script
    assert "--array" not in made.script


def test_numbers_that_do_not_share_a_step_alike_are_refused_by_the_flags_of_train(
    lumi: Cluster, tmp_path: Path
) -> None:
    for batch, placing in ((60, Wishes(gpus=8)), (60, Wishes(nodes=2)), (4, Wishes(gpus=8))):
        with pytest.raises(UsageError) as refusal:
            ordered(wanted(tmp_path, global_batch_size=batch), lumi, placing)
        assert refusal.value.where == "--global-batch-size"
    with pytest.raises(UsageError) as refusal:  # a node of standard-g has 8
        ordered(wanted(tmp_path, global_batch_size=12), lumi, Wishes(partition="standard-g"))
    assert "--batch" not in str(refusal.value).replace("--global-batch-size", "")


# ------------------------------------------------------------------------------------------- what its worker is told


def test_more_gpus_than_texts_are_refused(lumi: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8 GPUs share a step, and there are 5 texts to learn from") as refusal:
        ordered(wanted(tmp_path, examples=5), lumi, Wishes(gpus=8))
    assert refusal.value.hint == "at most --gpus 5"


def test_a_run_that_was_begun_on_several_gpus_goes_on_with_one(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, gpus=8, strategy="auto", method="lora")
    run = folder_for(asked.spec)
    open_run(run, asked, restart=False)
    write_order(run, ordered(asked, lumi, Wishes(gpus=1)), {})
    told = asked_of_job(run).spec
    assert (told.gpus, told.strategy) == (1, "single")


def test_a_job_works_by_what_was_decided_and_the_results_depend_on_nothing_of_it(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, learning_rate=0.001)
    run = folder_for(asked.spec)
    open_run(run, asked, restart=False)
    made = ordered(asked, lumi, Wishes(gpus=8))
    write_order(run, made, {})
    told = asked_of_job(run)
    assert told.spec.strategy == made.best.wishes.strategy
    assert told.spec.micro_batch == made.best.case.workload.batch
    assert told.spec.gradient_checkpointing is made.best.case.workload.checkpointing
    assert told.identity == run.read_asked().identity, "so the same run"
    assert run.read_asked().spec.strategy == "auto", "a process that is started by hand decides for itself"


# --------------------------------------------------------------------------------------------------- before the queue


def test_a_time_that_ends_before_the_first_step_is_refused(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, examples=4000, global_batch_size=4000)
    with pytest.raises(UsageError, match="00:01:00 is over before the first step is done: the model takes about"):
        list(of_time(ordered(asked, lumi, Wishes(gpus=8), seconds=60)))
    assert list(of_time(ordered(asked, lumi, Wishes(gpus=8)))) == []


def test_gpus_that_would_stay_idle_are_told_with_the_flag_that_uses_them(lumi: Cluster, tmp_path: Path) -> None:
    made = ordered(wanted(tmp_path, method="lora"), lumi, Wishes(gpus=4, partition="standard-g"))
    (note,) = of_idle_gpus(made)
    assert "4 of the 8 GCDs" in note and "--gpus 8 uses them" in note and "--copies" not in note


def test_ram_that_nobody_knows_of_is_told_where_it_will_be_needed(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, strategy="zero3", offload="cpu")
    (note,) = of_ram(ordered(asked, find_cluster("generic"), Wishes(gpu="a100-40", gpus=4)))
    assert re.match(r"it offloads to the RAM of each node, \d+\.\d GiB: the profile does not say", note)
    assert list(of_ram(ordered(asked, lumi, Wishes(gpus=8)))) == [], "there the plan has looked"


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets how many bytes are free."""
    plain = os.statvfs

    def set_free(count: int) -> None:
        def statvfs(path: Any) -> Any:
            found = list(plain(path))
            found[1], found[4] = 1, count  # f_frsize, f_bavail
            return os.statvfs_result(found)

        monkeypatch.setattr(os, "statvfs", statvfs)

    yield set_free


def test_a_disk_without_room_for_the_checkpoints_is_refused(lumi: Cluster, tmp_path: Path, free: Any) -> None:
    """7,241,732,096 parameters, each 4 bytes and two moments of 4: 80.9 GiB, two that are kept and one more."""
    asked = wanted(tmp_path, strategy="fsdp")
    made, run = ordered(asked, lumi, Wishes(gpus=8, partition="standard-g")), folder_for(asked.spec)
    free(242 * 2**30)
    with pytest.raises(RunError) as refusal:
        list(of_room(made, asked, run, lumi))
    assert (
        "242.0 GiB left on " in refusal.value.problem and "this run needs 242.8 GiB at least" in refusal.value.problem
    )
    assert refusal.value.hint is not None and "--keep-checkpoints 1" in refusal.value.hint
    free(244 * 2**30)
    assert list(of_room(made, asked, run, lumi)) == []


# --------------------------------------------------------------------------------------------------- what was gained


def test_an_attempt_has_gained_the_steps_up_to_its_last_checkpoint(tmp_path: Path) -> None:
    attempt = Attempt(path=tmp_path / "1", began=0.0, job="12")
    attempt.path.mkdir()
    assert count_results(attempt) == 0
    lines(attempt.path / "steps.jsonl", range(101, 131))
    assert count_results(attempt) == 0, "nothing is saved"
    lines(attempt.path / "saved.jsonl", (110, 120))
    assert count_results(attempt) == 20
    with open(attempt.path / "saved.jsonl", "a") as file:
        file.write('{"step": 1')  # torn by a kill
    assert count_results(attempt) == 20
    write_json(attempt.file("outcome.json"), {"outcome": "finished", "exit_status": 0})
    assert count_results(attempt) == 30


def lines(path: Path, steps: Any) -> None:
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))


def test_where_the_memory_of_one_of_several_was_too_small_the_next_attempt_takes_half_at_once(
    lumi: Cluster, tmp_path: Path
) -> None:
    asked = wanted(tmp_path, micro_batch=4, strategy="fsdp")
    run = folder_for(asked.spec)
    open_run(run, asked, restart=False)
    write_order(run, ordered(asked, lumi, Wishes(gpus=8)), {})
    for rows in (4, 2, 1):
        assert rows_at_once(run, 4, 8) == rows
        assert rows_at_once(run, 4, 16) == 4, "of as many processes alone something is known"
        past = out_of_memory(run, rows)
        reason = why_not_continue([past, past], Caps())
        assert (reason is None) == (rows > 1), "one row is the least"
    assert reason is not None and "another try would not help: a GPU ran out of memory" in reason


def out_of_memory(run: RunFolder, rows: int) -> Past:
    """Of an attempt of 8 processes, of which the second said so."""
    attempt = Attempt(path=run.new_attempt(), began=0.0, job="12")
    attempt.write()
    write_json(attempt.file("environment.json"), {"training": {"processes": 8, "micro_batch": rows}})
    problem = "CUDA out of memory. Tried to allocate 2.00 GiB."
    outcome = {"outcome": "failed", "exit_status": 70, "kind": "OutOfMemoryError", "problem": problem}
    write_json(attempt.file("outcome.json", 1), outcome)
    [one] = told([attempt])
    return past_of(run, one, None)


def test_a_damaged_submission_of_a_job_says_so(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path)
    run = folder_for(asked.spec)
    open_run(run, asked, restart=False)
    (run.path / "submission.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        asked_of_job(RunFolder(run.path))
