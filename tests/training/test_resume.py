"""Never lose a step: what was interrupted goes on as if nothing had happened, to the bit; what cannot, says why."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clusterlm.errors import RunError
from clusterlm.runs.folder import RunFolder
from clusterlm.worker.training.state.checkpoints import newest, prune, seal
from clusterlm.worker.training.watch.watchdog import Watchdog
from tests.chaos import jobs
from tests.chaos.forks import fork
from tests.cli.running import clusterlm, lines_of
from tests.sharing import shared_between_workers
from tests.training.attempts import attempt, checkpoints, job_of, prepared
from tests.training.lessons import TEXTS, losses, same, weights

FLAGS = ("--learning-rate", 0.01, "--global-batch-size", 16, "--epochs", 2)
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"method": "lora", "lora_rank": 4, "lora_dropout": 0.2},
}
"""With dropout the random numbers must go on where they were."""


class Undisturbed(NamedTuple):
    losses: dict[int, float]
    weights: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """By method: what a run comes to that nothing interrupts."""

    def make(method: str) -> Undisturbed:
        def learn(folder: Path) -> None:
            texts = folder / "texts.jsonl"
            texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
            attempt(prepared(tiny("llama"), texts, folder / "learned", **METHODS[method]))

        output = shared_between_workers(tmp_path_factory, f"undisturbed-{method}", learn) / "learned"
        return Undisturbed(losses(output), weights(output))

    return make


def assert_as_undisturbed(output: Path, expected: Undisturbed) -> None:
    assert losses(output) == expected.losses
    assert same(weights(output), expected.weights)
    left = [path.name for path in Path(f"{output}.run").rglob("*") if ".unfinished" in path.name]
    assert not left
    assert not list(output.parent.glob(".*.unfinished"))


# ----------------------------------------------------------------------------------------------------------- by signals


@pytest.mark.parametrize("method", METHODS)
def test_a_run_cut_anywhere_comes_to_the_same_to_the_bit(
    method: str, model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output, **METHODS[method], eval=str(texts))
    for step in (1, 4, 8, 11, 12):  # in both epochs, right before the last step, and when only the result is missing
        progress, said = attempt(run, stop_at=step)
        assert progress is None
        assert checkpoints(run)[-1] == f"step-{step:08}"
        assert not output.exists()
    progress, said = attempt(run)
    assert progress is not None
    assert (progress.done, progress.new_results) == (12, 0)
    assert "continuing behind step 12" in said
    assert_as_undisturbed(output, undisturbed(method))
    assert [one["step"] for one in lines_of(run.path / "held_out.jsonl")] == [0, 12]


@pytest.mark.slow
def test_each_signal_leaves_a_whole_checkpoint_and_says_so(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    run = RunFolder(Path(f"{output}.run"))
    by_hand = ("clusterlm", "train", model, texts, "-o", output, *FLAGS)
    worker = ("clusterlm.worker", run.path)

    def interrupted(number: signal.Signals, is_time: Callable[[], bool], *command: object) -> str:
        said = tmp_path / f"said-{len(list(tmp_path.iterdir()))}.txt"
        process = fork(said, *command)
        assert process.pid is not None
        while not is_time() and process.is_alive():
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 128 + number, said.read_text()
        return said.read_text()

    def has_data() -> bool:
        return (run.data / "learned.json").exists()

    assert "stopped before it began (SIGTERM)" in interrupted(signal.SIGTERM, has_data, *by_hand)
    shutil.rmtree(run.data)
    assert "stopped before it began: SIGUSR1" in interrupted(signal.SIGUSR1, has_data, *worker)
    assert not checkpoints(run)

    def has_attempts(count: int) -> bool:
        return len(list(run.path.glob("attempts/*/steps.jsonl"))) == count

    ways = [(signal.SIGINT, by_hand), (signal.SIGUSR1, worker), (signal.SIGUSR1, by_hand), (signal.SIGTERM, worker)]
    for count, (number, command) in enumerate(ways, 1):
        said = interrupted(number, partial(has_attempts, count), *command)
        assert f"interrupted ({number.name})" in said
        assert "a checkpoint is saved" in said
        assert checkpoints(run)[-1] == f"step-{max(losses(output)):08}", "of the step in which the signal came"
    assert clusterlm(*by_hand[1:]).exit_code == 0
    assert_as_undisturbed(output, undisturbed("full"))


# ------------------------------------------------------------------------------------------------------------- the time


def test_a_job_saves_and_leaves_before_its_time_is_over(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output, epochs=1, max_steps=2000, checkpoint_minutes=0.005)
    ends = time.time() + 12
    made = job_of(run, ends)
    assert jobs.work_here(run, made) == 75
    assert time.time() < ends
    told = jobs.outcome(made)
    assert (told["outcome"], told["reason"]) == ("stopped", "time limit")
    saved = lines_of(made.path / "saved.jsonl")
    assert len(saved) > 1, "one each 0.3 seconds"
    assert saved[-1]["step"] == max(losses(output)) < 2000
    assert all(one["seconds"] > 0 and one["bytes"] > 2_000_000 for one in saved)
    assert len(checkpoints(run)) == 2


# ------------------------------------------------------------------------------------------------------------- damages


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Checkpoints of the steps 4 and 8."""
    checkpoints = tmp_path / "checkpoints"
    for step in (4, 8):
        written = checkpoints / "written"
        (written / "part").mkdir(parents=True)
        (written / "model.safetensors").write_bytes(bytes(1000))
        (written / "part" / "optimizer.pt").write_bytes(bytes(range(200)))
        seal(written, checkpoints / f"step-{step:08}", step, 1)
    return checkpoints


@pytest.mark.parametrize(
    ("damage", "file", "said"),
    [
        (cut, "model.safetensors", "model.safetensors has 500 of 1,000 bytes"),
        (flip, "part/optimizer.pt", "optimizer.pt is not what was written"),
        (Path.unlink, "model.safetensors", "model.safetensors is missing"),
        (Path.unlink, "contents.json", "contents.json is missing"),
        (cut, "contents.json", "contents.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], None], file: str, said: str, saved: Path
) -> None:
    (saved / "step-00000012.unfinished").mkdir()
    damage(saved / "step-00000008" / file)
    found, told = newest(saved)
    assert found is not None
    assert found.step == 4
    assert len(told) == 1
    assert "step-00000008 is damaged" in told[0]
    assert said in told[0]
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000004", "step-00000008.damaged"]
    prune(saved, 1)
    assert [path.name for path in saved.iterdir()] == ["step-00000004"], "what is damaged takes no other's place"


def test_where_all_are_damaged_it_begins_anew_and_ends_the_same(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output, checkpoint_steps=4, keep_checkpoints=1)
    attempt(run, stop_at=7)
    assert checkpoints(run) == ["step-00000007"], "as many as are to be kept"
    cut(run.checkpoints / "step-00000007" / "optimizer.pt")
    progress, said = attempt(run)
    assert progress is not None
    assert progress.new_results == 12
    warning = next(line for line in said if "damaged" in line)
    assert "optimizer.pt has" in warning
    assert "begins anew" in warning
    assert checkpoints(run) == ["step-00000012"]
    assert_as_undisturbed(output, undisturbed("full"))


def test_what_a_kill_tore_is_passed_over(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output, eval=str(texts))
    attempt(run, stop_at=3)
    for file in (run.path / "held_out.jsonl", run.path / "attempts" / "1" / "steps.jsonl"):
        with open(file, "a") as lines:
            lines.write('{"step": 4, "lo')
    attempt(run)
    assert '{"step": 12, "loss": ' in (run.path / "held_out.jsonl").read_text().splitlines()[-1]
    assert "| 12 | 2.00 |" in (output / "README.md").read_text()
    assert same(weights(output), undisturbed("full").weights)


# ------------------------------------------------------------------------------------------------ what cannot go on


def test_weights_that_are_spoilt_are_not_saved(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    ends = clusterlm(
        *("train", model, texts, "-o", output, "--learning-rate", 1e37, "--max-steps", 12),
        *("--global-batch-size", 16, "--warm-up", 0, "--schedule", "constant", "--checkpoint-steps", 1),
    )
    assert ends.exit_code == 1
    assert "nan" in ends.stderr or "inf" in ends.stderr
    run = RunFolder(Path(f"{output}.run"))
    last = checkpoints(run)[-1]
    assert f"is safe in {run.checkpoints / last}" in ends.stderr
    assert newest(run.checkpoints)[1] == []


def test_a_loss_that_grows_ends_the_run_also_where_it_was_interrupted(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output, learning_rate=20.0, warm_up=0.9, global_batch_size=4, checkpoint_steps=10)
    attempt(run, stop_at=22)
    with pytest.raises(RunError, match=r"the loss grows: .* nats in the beginning") as told:
        attempt(run)
    assert "is safe in" in str(told.value)
    beginning = [losses(output)[step] for step in range(1, 21)]
    assert f"{sum(beginning) / 20:.3g} nats in the beginning" in str(told.value), "of the first attempt"


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_whole(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = prepared(model, texts, output, checkpoint_steps=4)

    def fill_up(room: int, step: int) -> None:
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

    for room, words in ((500_000, "no space left"), (1_000_000, "did not take the whole of a file")):
        try:
            with pytest.raises(RunError) as told:  # the weights do not fit; the weights fit, the optimizer does not
                attempt(run, on_step=partial(fill_up, room))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "step 8 cannot be saved" in str(told.value)
        assert words in str(told.value)
        assert "all up to step 4 is safe" in str(told.value)
        assert checkpoints(run) == ["step-00000004"]
    attempt(run)
    assert_as_undisturbed(output, undisturbed("full"))


def test_a_disk_that_is_full_when_the_model_is_written_costs_no_step(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    run = prepared(model, texts, output)
    attempt(run, stop_at=12)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(RunError, match="the model cannot be written: no space left") as told:
            attempt(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "all up to step 12 is safe" in str(told.value)
    assert not list(tmp_path.glob(".*.unfinished"))
    progress, _ = attempt(run)
    assert progress is not None
    assert progress.new_results == 0
    assert_as_undisturbed(output, undisturbed("full"))
    assert (output / "model.safetensors").stat().st_mode == (output / "README.md").stat().st_mode, "others may read it"


def test_a_disk_without_room_for_the_checkpoints_is_said_before_the_first_step(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128,000 weights of tokens, 73,984 of two layers, 64: 4 bytes of each and 8 of the optimizer; three times."""
    output = tmp_path / "learned"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**20))
    full = clusterlm("train", model, texts, "-o", output, *FLAGS)
    assert full.exit_code == 1
    assert "5.0 MiB are free, and 6.9 MiB needed: 2 checkpoints of 2.3 MiB" in full.stderr
    assert not output.exists()
    lora = (*FLAGS, "--method", "lora", "--lora-rank", 4)
    assert clusterlm("train", model, texts, "-o", output, *lora).exit_code == 0, "an adapter needs a hundredth"


def test_other_settings_are_refused_unless_they_change_no_result(
    model: Path, texts: Path, tmp_path: Path, undisturbed: Callable[[str], Undisturbed]
) -> None:
    output = tmp_path / "learned"
    attempt(prepared(model, texts, output), stop_at=5)
    other_model, other_texts = tmp_path / "model", tmp_path / "other.jsonl"
    shutil.copytree(model, other_model)
    flip(other_model / "model.safetensors")
    other_texts.write_text(texts.read_text() + '{"text": "one more"}\n')
    for arguments, said in (
        ((model, texts, *FLAGS, "--learning-rate", 0.02), "learning_rate was 0.01, now 0.02"),
        ((model, other_texts, *FLAGS), "content of the input changed"),
        ((other_model, texts, *FLAGS), "content of the model changed"),
    ):
        refused = clusterlm("train", *arguments, "-o", output)
        assert (refused.exit_code, said in refused.stderr) == (1, True), refused.output
    others = ("--micro-batch", 1, "--no-packing", "--checkpoint-steps", 2, "--keep-checkpoints", 3)
    done = clusterlm("train", model, texts, "-o", output, *FLAGS, *others, "--strategy", "single")
    assert done.exit_code == 0, done.output
    assert "continuing behind step 5" in done.stderr
    assert losses(output) == pytest.approx(undisturbed("full").losses, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ watchdog


def test_the_watchdog_tells_where_all_threads_are_when_nothing_moves(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    with Watchdog(told.append, 0.3) as watchdog:
        time.sleep(0.5)
        assert not told, "it watches from the first move on"
        for _ in range(5):
            watchdog.moved()
            time.sleep(0.1)
        watchdog.moved(allowed=0.8)
        time.sleep(0.6)
        assert not told
        watchdog.moved()
        assert not told
        begun = time.monotonic()
        while not told and time.monotonic() - begun < 30:
            time.sleep(0.05)
    assert "nothing has moved" in told[0]
    assert "test_the_watchdog_tells_where_all_threads_are" in capfd.readouterr().err


def test_a_suspended_process_has_not_hung() -> None:
    script = (
        "import os, time; from clusterlm.worker.training.watch.watchdog import Watchdog\n"
        "with Watchdog(lambda problem: os._exit(70), 1.0) as watchdog:\n"
        "    watchdog.moved(); print('begun', flush=True); time.sleep(0.6)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0
