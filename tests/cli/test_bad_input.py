"""Each bad input: one message that says what, where and what to do; the right status; nothing touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.running import all_files, clusterlm


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


def refused(folder: Path, *arguments: object, status: int, says: list[str]) -> None:
    before = all_files(folder)
    result = clusterlm("generate", *arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    for words in says:
        assert words in result.stderr
    assert "Traceback" not in result.output
    assert all_files(folder) == before


INPUTS: list[tuple[str, bytes, list[str], int, list[str]]] = [
    ("empty.txt", b"", [], 1, ["empty.txt"]),
    ("broken.jsonl", b'{"prompt": "a"}\n{"prompt": \n', [], 1, ["broken.jsonl:2"]),
    ("latin.txt", "caf\u00e9\n".encode("latin-1"), [], 1, ["latin.txt", "UTF-8"]),
    ("twice.jsonl", b'{"id": 7, "prompt": "a"}\n{"id": 7, "prompt": "b"}\n', [], 1, ["twice.jsonl", "'7'"]),
    ("table.csv", b"text,label\na,1\n", ["--column", "txt"], 2, ["'txt'", "did you mean 'text'?"]),
    ("table.csv", b"text,label\na,1\n", ["--template", "{txet}"], 2, ["'txet'", "did you mean 'text'?"]),
    ("image.png", b"x", [], 1, [".png", ".jsonl"]),
    ("a.txt", b"a\n", ["--dtype", "float12"], 2, ["dtype", "float12", "float16"]),
    ("a.txt", b"a\n", ["--temperature", "-1"], 2, ["temperature", "-1"]),
    ("a.txt", b"a\n", ["--system", "Be brief."], 2, ["--system", "--chat"]),
    ("a.txt", b"a\n", ["--column", "text"], 2, ["--column", "no columns"]),
]


@pytest.mark.parametrize(("name", "content", "flags", "status", "says"), INPUTS)
def test_a_bad_input_is_refused(
    name: str, content: bytes, flags: list[str], status: int, says: list[str], model: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, model, tmp_path / name, "-o", tmp_path / "out.jsonl", *flags, status=status, says=says)


def test_a_missing_input_offers_the_nearest_name(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    says = ["promts.txt", "did you mean", "prompts.txt'?"]
    refused(tmp_path, model, tmp_path / "promts.txt", "-o", tmp_path / "out.jsonl", status=1, says=says)


def test_an_output_of_another_origin_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    (tmp_path / "out.jsonl").write_text("precious\n")
    says = ["out.jsonl", "another OUTPUT"]
    refused(tmp_path, model, tmp_path / "prompts.txt", "-o", tmp_path / "out.jsonl", status=1, says=says)


def test_an_output_without_a_place_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    refused(tmp_path, model, tmp_path / "prompts.txt", "-o", tmp_path / "no" / "out.jsonl", status=2, says=["mkdir"])
    refused(tmp_path, model, tmp_path / "prompts.txt", "-o", tmp_path / "out.docx", status=2, says=[".docx", ".csv"])
    refused(tmp_path, model, tmp_path / "prompts.txt", "-o", tmp_path / "prompts.txt", status=2, says=["input"])
    refused(tmp_path, model, tmp_path / "prompts.txt", status=2, says=["-o"])


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["has no weights"]),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ["has no tokenizer", "save_pretrained"]),
    "no config": (lambda folder: (folder / "config.json").unlink(), ["no config.json"]),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "JSON"]),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        ["model.safetensors", "truncated", "its header says"],
    ),
    "a missing part": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
        ),
        ["model-00001-of-00002.safetensors", "missing"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_model_is_refused_before_it_is_loaded(damage: str, model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    break_it, says = DAMAGES[damage]
    break_it(damaged)
    (tmp_path / "prompts.txt").write_text("a\n")
    refused(tmp_path, damaged, tmp_path / "prompts.txt", "-o", tmp_path / "out.jsonl", status=1, says=says)


def test_a_model_that_is_nowhere_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    rest = [tmp_path / "prompts.txt", "-o", tmp_path / "out.jsonl"]
    refused(tmp_path, "someone/no-such-model", *rest, status=1, says=["someone/no-such-model", "hf download", "demo"])
    refused(tmp_path, tmp_path / "gone", *rest, status=1, says=["no such model folder"])


def test_messages_for_a_model_without_chat_template_are_refused(model: Path, tmp_path: Path) -> None:
    silent = tmp_path / "model"
    shutil.copytree(model, silent)
    (silent / "chat_template.jinja").unlink()
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    refused(tmp_path, silent, tmp_path / "chat.jsonl", "-o", tmp_path / "out.jsonl", status=1, says=["chat template"])


def test_all_mistakes_of_a_run_file_are_said_at_once(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text('model = "m"\ninput = "i.txt"\noutput = "o.jsonl"\nmax_new_token = 3\ntop_p = 2.0\n')
    says = ["run.toml", "did you mean 'max_new_tokens'?", "top_p = 2.0"]
    refused(tmp_path, run_file, status=2, says=says)
