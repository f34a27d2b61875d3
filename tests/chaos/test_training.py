"""A training is killed again and again, at any moment and by any signal: what comes out is the same to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from clusterlm.runs.folder import RunFolder
from tests.chaos import jobs
from tests.chaos.forks import fork
from tests.sharing import shared_between_workers
from tests.training.attempts import attempt, checkpoints, job_of, last_step, prepared
from tests.training.lessons import TEXTS, losses, same, weights

KILLS = 20
STEPS = 12
SETTINGS: dict[str, Any] = {
    **{"method": "lora", "lora_rank": 4, "lora_dropout": 0.1},
    **{"epochs": 2, "checkpoint_steps": 2},
}
"""With dropout each step depends on the random numbers before it."""


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs: none of other tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path)


def write_texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def undisturbed(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a run that nothing disturbs."""

    def learn(folder: Path) -> None:
        attempt(prepared(tiny("llama"), write_texts(folder), folder / "learned", **SETTINGS))

    return shared_between_workers(tmp_path_factory, "undisturbed-training", learn) / "learned"


def assert_as_undisturbed(output: Path, expected: Path) -> None:
    assert losses(output) == losses(expected)
    assert same(weights(output), weights(expected))
    assert not [path for path in output.parent.rglob("*") if "unfinished" in path.name or "partial" in path.name]


@pytest.mark.slow
def test_20_kills_change_no_weight(tiny: Callable[[str], Path], texts: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "global_batch_size": 2}  # 96 steps
    undisturbed, output, said = tmp_path / "undisturbed", tmp_path / "learned", tmp_path / "said.txt"
    attempt(prepared(tiny("llama"), texts, undisturbed, **settings))
    run = prepared(tiny("llama"), texts, output, **settings)
    moments = random.Random(int(os.environ.get("CLUSTERLM_CHAOS_SEED", "7")))
    killed_at_work = 0
    for kill in range(KILLS):
        saved, made = last_step(run), steps_made(run)
        process = fork(said, "clusterlm.worker", run.path)
        if kill % 5:  # four of five: while steps are made, and so few of them that the later kills find some too
            wait_for_steps(run, made + 1 + moments.randrange(3), process)
            time.sleep(moments.random() * 0.1)
        else:
            time.sleep(moments.random() * 2)
        number = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1][kill % 3]
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode in (-number, 128 + number), said.read_text()
        assert last_step(run) >= saved, "a step was lost"
        killed_at_work += steps_made(run) > made
    assert not output.exists()
    assert killed_at_work >= KILLS // 2, "too few kills fell into the work"
    process = fork(said, "clusterlm.worker", run.path)
    process.join(120)
    assert process.exitcode == 0, said.read_text()
    assert "damaged" not in said.read_text()
    assert "Traceback" not in said.read_text()
    assert_as_undisturbed(output, undisturbed)


def steps_made(run: RunFolder) -> int:
    """By all attempts, those that were lost and made again too."""
    return sum(file.read_bytes().count(b"\n") for file in run.path.glob("attempts/*/steps.jsonl"))


def wait_for_steps(run: RunFolder, count: int, process: BaseProcess) -> None:
    begun = time.monotonic()
    while steps_made(run) < count and process.is_alive():
        assert time.monotonic() - begun < 60
        time.sleep(0.01)


# -------------------------------------------------------------------------------------------- the most delicate moments


def die(*arguments: object, **settings: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_a_checkpoint_is_written() -> None:
    import transformers

    transformers.Trainer._save_rng_state = die


def before_a_checkpoint_has_its_name() -> None:
    from clusterlm.worker.training.state import checkpoints

    checkpoints.sync_folder = die
    Path.rename = die  # type: ignore[method-assign,assignment]


def before_the_result_has_its_name() -> None:
    from clusterlm.worker.training import finish

    finish.write_result = die


def before_the_result_is_told() -> None:
    RunFolder.write_finished = die  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    "sabotage",
    [
        while_a_checkpoint_is_written,
        before_a_checkpoint_has_its_name,
        before_the_result_has_its_name,
        before_the_result_is_told,
    ],
)
def test_a_kill_while_something_is_written_leaves_no_half_of_it(
    sabotage: Callable[[], object],
    tiny: Callable[[str], Path],
    texts: Path,
    tmp_path: Path,
    undisturbed: Path,
) -> None:
    output, said = tmp_path / "learned", tmp_path / "said.txt"
    run = prepared(tiny("llama"), texts, output, **{**SETTINGS, "checkpoint_steps": 4})
    attempt(run, stop_at=6)
    process = fork(said, "clusterlm.worker", run.path, sabotage=sabotage)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, said.read_text()
    is_in_a_checkpoint = "checkpoint" in sabotage.__name__
    assert any(name.endswith(".unfinished") for name in checkpoints(run)) == is_in_a_checkpoint
    assert last_step(run) == (6 if is_in_a_checkpoint else STEPS)
    progress, _ = attempt(run)
    assert progress is not None
    assert progress.new_results == (STEPS - 6 if is_in_a_checkpoint else 0)
    assert_as_undisturbed(output, undisturbed)


# --------------------------------------------------------------------------------------------------------- what hangs


def a_step_that_never_ends() -> None:
    from clusterlm.worker.training.trainer import Trainer
    from clusterlm.worker.training.watch import watchdog

    as_usual = Trainer.training_step

    def step(trainer: Any, *arguments: Any, **settings: Any) -> Any:
        if trainer.state.global_step == 3:
            signal.pause()
        return as_usual(trainer, *arguments, **settings)

    Trainer.training_step = step
    watchdog.Watchdog.__init__.__defaults__ = (3.0,)  # type: ignore[misc]


def test_a_training_that_hangs_ends_its_job_and_the_next_one_goes_on(
    tiny: Callable[[str], Path], texts: Path, tmp_path: Path, undisturbed: Path
) -> None:
    output, said = tmp_path / "learned", tmp_path / "said.txt"
    run = prepared(tiny("llama"), texts, output, **SETTINGS)
    made = job_of(run)
    process = fork(said, "clusterlm.worker", run.path, attempt=made, sabotage=a_step_that_never_ends)
    process.join(60)
    assert process.exitcode == 70, said.read_text()
    assert "error: nothing has moved for" in said.read_text()
    assert "in step\n" in said.read_text(), "the stack says where it hangs"
    told = jobs.outcome(made)
    assert (told["outcome"], told["kind"]) == ("failed", "TimeoutError")
    assert last_step(run) == 2
    progress, _ = attempt(run)
    assert progress is not None
    assert progress.new_results == STEPS - 2
    assert_as_undisturbed(output, undisturbed)
