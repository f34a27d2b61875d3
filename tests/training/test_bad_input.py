"""Each bad input of a training: said before the model is loaded, with what to do, and nothing is left behind."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clusterlm.errors import UsageError
from clusterlm.spec import TrainSpec
from clusterlm.worker.training import job
from clusterlm.worker.training.precision import Precision, precision_of
from tests.cli.running import all_files, clusterlm
from tests.training.lessons import losses

CONVERSATION = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


@pytest.fixture(autouse=True)
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the weights are loaded all the same."""

    def load(*arguments: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(job, "load_for_training", load)


def refused(folder: Path, *arguments: object, status: int, says: list[str]) -> None:
    before = files_of(folder)
    result = clusterlm("train", *arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    for words in says:
        assert words in result.stderr
    assert "Traceback" not in result.output
    assert files_of(folder) == before


def files_of(folder: Path) -> dict[str, bytes]:
    """But for the user's list of runs."""
    return {name: content for name, content in all_files(folder).items() if not name.startswith("state")}


def rows(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


DATA: list[tuple[str, bytes, list[object], int, list[str]]] = [
    ("a.jsonl", rows({"txt": "a b", "label": 1}), [], 2, ["columns are: txt, label", "--column txt"]),
    ("a.csv", b"text,label\na,1\n", ["--column", "txt"], 2, ["no column 'txt'", "did you mean 'text'?"]),
    ("a.csv", b"q,a\nb,c\n", ["--template", "{qq}"], 2, ["'qq'", "did you mean 'q'?"]),
    ("a.csv", b"label,score\n1,0.5\n0,-2\n", [], 2, ["label, score", "none of them holds text", "labels alone"]),
    ("a.jsonl", rows({"text": ""}, {"text": " "}, {"text": None}), [], 1, ["none of its 3 rows", "empty", "blank"]),
    ("a.jsonl", rows({"text": 1}, {"text": 0}), [], 1, ["none of its 2 rows", "2 x text is a number"]),
    ("a.txt", b"\n\n", [], 1, ["a.txt", "no row"]),
    ("a.jsonl", b'{"text": "a b"}\n{"text": \n', [], 1, ["a.jsonl:2", "JSON"]),
    ("a.jsonl", rows({"prompt": "a"}), [], 2, ["nor prompt and completion", "--column prompt"]),
    ("a.jsonl", rows({"messages": CONVERSATION[:1]}), [], 1, ["no turn of the assistant"]),
    ("a.jsonl", rows({"messages": [{"role": "assistant"}]}), [], 1, ["messages[0] has no content"]),
    ("a.docx", b"x", [], 1, [".docx", ".jsonl"]),
    ("a.txt", b"a b\n", ["--split", "train"], 2, ["--split", "only a dataset folder"]),
]


@pytest.mark.parametrize(("name", "content", "flags", "status", "says"), DATA)
def test_data_that_cannot_be_learned(
    name: str, content: bytes, flags: list[object], status: int, says: list[str], model: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, model, tmp_path / name, "-o", tmp_path / "out", *flags, status=status, says=says)


FLAGS: list[tuple[list[object], int, list[str]]] = [
    (["--sequence-length", 1000], 2, ["--sequence-length", "positions for 512 tokens", "--sequence-length 512"]),
    (["--method", "lora", "--lora-targets", "q_proj,k_porj"], 2, ["'k_porj'", "did you mean 'k_proj'?", "all-linear"]),
    (["--method", "lora", "--lora-targets", "q_proj,lm_head"], 2, ["output layer 'lm_head'", "down_proj, gate_proj"]),
    (["--method", "full", "--lora-rank", 3, "--merge"], 2, ["lora_rank, merge", "method is full"]),
    (["--gpus", 8, "--global-batch-size", 4], 2, ["global_batch_size = 4", "8 processes", "at least 8"]),
    (["--epochs", 2, "--max-steps", 9], 2, ["epochs and max_steps"]),
    (["--eval", "b.txt", "--eval-fraction", 0.5], 2, ["eval and eval_fraction"]),
    (["--eval-steps", 5], 2, ["eval_steps", "nothing is held out"]),
    (["--dtype", "float16"], 2, ["float16 cannot be trained", "auto"]),
    (["--dtype", "int3"], 2, ["dtype", "int3", "bfloat16"]),
    (["--learning-rate", 0], 2, ["learning_rate", "greater than 0"]),
    (["--strategy", "fsdp"], 2, ["--strategy", "--gpus 2"]),
    (["--strategy", "single", "--gpus", 2], 2, ["'single': is one process, and gpus is 2"]),
    (["--eval-fraction", 0.999], 1, ["--eval-fraction", "none would be left"]),
    (["--report-to", "mlflow"], 1, ["mlflow", "pip install mlflow"]),
    (["--optimizer", "adam"], 2, ["optimizer = 'adam'", "adamw"]),
]


@pytest.mark.parametrize(("flags", "status", "says"), FLAGS, ids=str)
def test_settings_that_cannot_be(
    flags: list[object], status: int, says: list[str], model: Path, texts: Path, tmp_path: Path
) -> None:
    refused(tmp_path, model, texts, "-o", tmp_path / "out", *flags, status=status, says=says)


def test_several_mistakes_are_said_together(model: Path, texts: Path, tmp_path: Path) -> None:
    flags = ["--epochs", 2, "--max-steps", 9, "--lora-rank", 3, "--gpus", 8, "--global-batch-size", 4]
    says = ["epochs and max_steps", "lora_rank", "global_batch_size = 4"]
    refused(tmp_path, model, texts, "-o", tmp_path / "out", *flags, status=2, says=says)
    run_file = tmp_path / "run.toml"
    run_file.write_text('model = "m"\ninput = "i.txt"\noutput = "o"\nlerning_rate = 1e-3\nmethod = "lore"\n')
    says = ["run.toml", "'lerning_rate' (did you mean 'learning_rate'?)", "method", "'lora'"]
    refused(tmp_path, run_file, status=2, says=says)


def test_held_out_texts_of_another_form(model: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_bytes(rows({"messages": CONVERSATION}))
    (tmp_path / "empty.jsonl").write_bytes(rows({"text": ""}))
    for name, status, says in (("chat.jsonl", 2, ["messages", "text"]), ("empty.jsonl", 1, ["empty.jsonl", "none of"])):
        flags = ["--eval", tmp_path / name]
        refused(tmp_path, model, texts, "-o", tmp_path / "out", *flags, status=status, says=says)
    refused(tmp_path, model, texts, "-o", tmp_path / "out", "--eval", "gone.jsonl", status=1, says=["gone.jsonl"])


def test_models_that_cannot_learn_it(model: Path, texts: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(model, mute)
    (mute / "chat_template.jinja").unlink()
    (tmp_path / "chat.jsonl").write_bytes(rows({"messages": CONVERSATION}))
    rest = ["-o", tmp_path / "out"]
    refused(tmp_path, mute, tmp_path / "chat.jsonl", *rest, status=1, says=["chat template", "completions"])
    refused(tmp_path, "someone/no-such", texts, *rest, status=1, says=["someone/no-such", "hf download", "demo"])
    refused(tmp_path, tmp_path / "mut", texts, *rest, status=1, says=["no such model folder", "did you mean 'mute'?"])


@pytest.mark.parametrize("architecture", ["opt", "bloom"])
def test_packing_where_sequences_would_see_each_other(
    architecture: str, tiny: Callable[[str], Path], texts: Path, tmp_path: Path
) -> None:
    says = ["--packing", architecture, "see each other", "leave --packing out"]
    refused(tmp_path, tiny(architecture), texts, "-o", tmp_path / "out", "--packing", status=2, says=says)


def test_outputs_that_cannot_be(model: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    refused(tmp_path, model, texts, "-o", tmp_path / "taken", status=1, says=["taken", "no run of clusterlm made it"])
    refused(tmp_path, model, texts, "-o", tmp_path / "file", status=1, says=["file", "no run of clusterlm made it"])
    refused(tmp_path, model, texts, "-o", tmp_path / "no" / "out", status=1, says=["no such folder", "mkdir -p"])
    refused(tmp_path, model, texts, "-o", "/proc/out", status=1, says=["/proc/out"])
    refused(tmp_path, model, texts, "-o", "-", status=2, says=["a model is a folder", "-o my-model"])
    refused(tmp_path, model, "-", "-o", tmp_path / "out", status=2, says=["read several times", "file"])
    refused(tmp_path, model, texts, status=2, says=["OUTPUT is missing", "-o"])
    refused(tmp_path, model, status=2, says=["DATA is missing"])


def test_rows_that_cannot_be_used_are_counted_and_told_and_the_others_learned(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = tmp_path / "half.jsonl"
    whole = {"prompt": "The value ", "completion": "is a class."}
    data.write_bytes(rows(whole, {"prompt": "The"}, {"prompt": "A ", "completion": ""}, whole))
    done = clusterlm("train", model, data, "-o", tmp_path / "out", "--max-steps", 1)
    assert done.exit_code == 0, done.output
    assert "2 of 4 rows are left out: 1 x completion is null; 1 x completion is empty" in done.stderr
    assert f"{data}:2: completion is null" in done.stderr
    assert "2 examples: 2 sequences" in done.stderr


def test_a_run_goes_on_only_with_what_it_was_begun_with(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    output = tmp_path / "out"
    command = (model, texts, "-o", output, "--max-steps", 2)
    assert clusterlm("train", *command, "--learning-rate", 0.01).exit_code == 0
    says = ["learning_rate was 0.01, now 0.02", "seed was 0, now 1", "--restart"]
    refused(tmp_path, *command, "--learning-rate", 0.02, "--seed", 1, status=1, says=says)
    with open(texts, "a") as file:
        file.write('{"text": "one more"}\n')
    refused(tmp_path, *command, "--learning-rate", 0.01, status=1, says=["content of the input changed"])
    assert clusterlm("train", *command, "--learning-rate", 0.02, "--restart").exit_code == 0
    assert set(losses(output)) == {1, 2}


def test_a_run_in_which_nothing_was_done_yet_is_in_nobodys_way(model: Path, texts: Path, tmp_path: Path) -> None:
    """It was killed before the first step, or while it waited."""
    output = tmp_path / "out"
    killed = clusterlm("train", model, texts, "-o", output, "--seed", 1)
    assert str(killed.exception) == "the model was loaded"
    assert json.loads((tmp_path / "out.run" / "run.json").read_text())["spec"]["seed"] == 1
    assert str(clusterlm("train", model, texts, "-o", output, "--seed", 2).exception) == "the model was loaded"
    assert json.loads((tmp_path / "out.run" / "run.json").read_text())["spec"]["seed"] == 2


def test_a_run_at_work_is_left_alone(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    clusterlm("train", model, texts, "-o", output)
    with open(tmp_path / "out.run" / "run.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(tmp_path, model, texts, "-o", output, status=1, says=["another process works on this run", "wait"])
        refused(tmp_path, model, texts, "-o", output, "--seed", 2, status=1, says=["another process"])


def test_bfloat16_is_refused_where_the_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a V100: no machine of the tests has one."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    asked = TrainSpec(model="m", input="i", output="o", dtype="bfloat16")
    with pytest.raises(UsageError, match="Tesla V100 has no bfloat16"):
        precision_of(asked)
    assert precision_of(asked.model_copy(update={"dtype": "auto"})) == Precision(torch.float32, torch.float16)
