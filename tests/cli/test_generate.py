"""clusterlm generate, from the command line to the files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

import clusterlm as library
from tests.cli.running import clusterlm, lines_of

PROMPTS = ["The value of the object", "A class", "When the statement is executed, the name", "If it is not"]


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return path


def done(*arguments: object, status: int = 0, input: str | None = None) -> str:
    result = clusterlm("generate", *arguments, input=input)
    assert result.exit_code == status, result.output
    return result.stderr


def test_a_line_of_text_becomes_a_line_of_json_in_the_same_order(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    said = done(model, prompts, "-o", output, "--max-new-tokens", 9)
    assert "4 in = 4 done + 0 failed" in said
    assert str(output) in said
    assert f"{output}.run" in said
    answers = lines_of(output)
    assert [answer["prompt"] for answer in answers] == PROMPTS
    assert [answer["id"] for answer in answers] == ["0", "1", "2", "3"]
    for answer in answers:
        assert answer["error"] is None
        assert answer["finish_reason"] in ("length", "stop")
        assert 1 <= answer["completion_tokens"] <= 9


def test_csv_in_by_template_and_parquet_out(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,title,text\na,One,"first, text"\nb,Two,second\n')
    output = tmp_path / "out.parquet"
    done(model, tmp_path / "in.csv", "-o", output, "--template", "{title}: {text}", "--max-new-tokens", 3)
    table = pyarrow.parquet.read_table(output).to_pylist()
    assert [(row["id"], row["prompt"]) for row in table] == [("a", "One: first, text"), ("b", "Two: second")]


def test_prompt_response_is_the_two_column_dataset(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset.csv"
    done(model, prompts, "-o", output, "--prompt-response", "--max-new-tokens", 3)
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["prompt", "response"]] * 4
    assert [row["prompt"] for row in rows] == PROMPTS


def test_openai_batch_in_gives_openai_batch_out(model: Path, tmp_path: Path) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    request = {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "batch.jsonl").write_text(json.dumps(request) + "\n")
    done(model, tmp_path / "batch.jsonl", "-o", tmp_path / "out.jsonl")
    [line] = lines_of(tmp_path / "out.jsonl")
    assert line["custom_id"] == "q1"
    assert line["response"]["status_code"] == 200
    [choice] = line["response"]["body"]["choices"]
    assert choice["message"]["role"] == "assistant"
    assert line["response"]["body"]["usage"]["completion_tokens"] == 4


def test_standard_input_to_standard_output(model: Path) -> None:
    result = clusterlm("generate", model, "-", "-o", "-", "--max-new-tokens", 3, input="One\nTwo\n")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["One", "Two"]


def test_a_record_that_fails_does_not_stop_the_others(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "short"}, {"prompt": "word " * 600}, {"prompt": None}, {"prompt": "last"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = done(model, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--max-new-tokens", 3, status=3)
    assert "4 in = 2 done + 2 failed" in said
    answers = lines_of(tmp_path / "out.jsonl")
    assert "context is 512 tokens" in answers[1]["error"]
    assert "null" in answers[2]["error"]
    assert answers[3]["error"] is None and answers[3]["text"]


def test_an_answer_ends_where_the_context_does(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """GPT-2 has a table of positions: one more would be out of bounds."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "the " * 250}) + "\n")
    done(tiny("gpt2"), tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--max-new-tokens", 2000)
    [answer] = lines_of(tmp_path / "out.jsonl")
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] + answer["completion_tokens"] == 512


def test_the_same_command_again_does_nothing_twice(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done(model, prompts, "-o", output, "--max-new-tokens", 5)
    first = output.read_bytes()
    output.unlink()
    done(model, prompts, "-o", output, "--max-new-tokens", 5)
    assert output.read_bytes() == first
    assert len(list((Path(f"{output}.run") / "attempts").iterdir())) == 1


def test_other_settings_or_inputs_are_refused_until_restart(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done(model, prompts, "-o", output, "--max-new-tokens", 5)
    first = output.read_bytes()
    said = done(model, prompts, "-o", output, "--max-new-tokens", 6, status=1)
    assert "max_new_tokens was 5, now 6" in said and "--restart" in said
    prompts.write_text("changed\n" + prompts.read_text())
    assert "content of the input changed" in done(model, prompts, "-o", output, "--max-new-tokens", 5, status=1)
    assert output.read_bytes() == first
    done(model, prompts, "-o", output, "--max-new-tokens", 6, "--restart")
    assert len(lines_of(output)) == 5


def test_flags_win_over_the_run_file_and_the_run_folder_holds_one(model: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        f'model = "{model}"\ninput = "prompts.txt"\noutput = "answers.jsonl"\nmax_new_tokens = 2\n'
    )
    done(tmp_path / "run.toml", "--max-new-tokens", 4)
    assert {answer["completion_tokens"] for answer in lines_of(tmp_path / "answers.jsonl")} <= {1, 2, 3, 4}
    assert "max_new_tokens = 4" in (tmp_path / "answers.jsonl.run" / "run.toml").read_text()
    done(tmp_path / "answers.jsonl.run" / "run.toml")  # the same run: nothing to do


def test_a_record_is_sampled_the_same_with_other_neighbours(model: Path, prompts: Path, tmp_path: Path) -> None:
    options = ["--temperature", 1, "--top-p", 0.9, "--seed", 3, "--max-new-tokens", 20]
    done(model, prompts, "-o", tmp_path / "all.jsonl", *options)
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "2", "prompt": PROMPTS[2]}) + "\n")
    done(model, tmp_path / "one.jsonl", "-o", tmp_path / "alone.jsonl", *options)
    assert lines_of(tmp_path / "alone.jsonl")[0] == lines_of(tmp_path / "all.jsonl")[2]
    done(model, prompts, "-o", tmp_path / "other.jsonl", *options[:-4], "--seed", 4, "--max-new-tokens", 20)
    assert lines_of(tmp_path / "other.jsonl")[2]["text"] != lines_of(tmp_path / "all.jsonl")[2]["text"]


def test_n_answers_differ_and_are_seeded_apart(model: Path, prompts: Path, tmp_path: Path) -> None:
    done(model, prompts, "-o", tmp_path / "o.jsonl", "--n", 3, "--temperature", 1, "--max-new-tokens", 12)
    for answer in lines_of(tmp_path / "o.jsonl"):
        assert len({choice["text"] for choice in answer["choices"]}) == 3
        assert len({choice["seed"] for choice in answer["choices"]}) == 3


def test_a_stop_text_ends_the_answer_and_is_not_in_it(model: Path, prompts: Path, tmp_path: Path) -> None:
    done(model, prompts, "-o", tmp_path / "free.jsonl", "--max-new-tokens", 30)
    free = lines_of(tmp_path / "free.jsonl")[0]["text"]
    stop = free[10:13]
    done(model, prompts, "-o", tmp_path / "stopped.jsonl", "--max-new-tokens", 30, "--stop", stop)
    answer = lines_of(tmp_path / "stopped.jsonl")[0]
    assert answer["text"] == free[: free.index(stop)]
    assert answer["finish_reason"] == "stop"


def test_chat_wraps_a_prompt_in_the_models_template(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Hello\n")
    done(model, tmp_path / "in.txt", "-o", tmp_path / "chat.jsonl", "--chat", "--system", "S", "--max-new-tokens", 8)
    (tmp_path / "same.txt").write_text("<|system|>S<|user|>Hello<|assistant|>\n")
    done(model, tmp_path / "same.txt", "-o", tmp_path / "plain.jsonl", "--max-new-tokens", 8)
    assert lines_of(tmp_path / "chat.jsonl")[0]["text"] == lines_of(tmp_path / "plain.jsonl")[0]["text"]


@pytest.mark.parametrize("quantize", ["int8", "nf4"])
def test_a_quantized_model_answers(quantize: str, model: Path, prompts: Path, tmp_path: Path) -> None:
    done(model, prompts, "-o", tmp_path / "out.jsonl", "--quantize", quantize, "--max-new-tokens", 4)
    assert all(answer["completion_tokens"] for answer in lines_of(tmp_path / "out.jsonl"))


def test_a_full_disk_stops_with_a_message_and_a_good_file(model: Path, prompts: Path, tmp_path: Path) -> None:
    """A limit on the size of a file is the full disk that needs no root: the write fails half-way."""
    prompts.write_text("".join(f"prompt number {number}\n" for number in range(60)))
    command = [sys.executable, "-m", "clusterlm", "generate", str(model), str(prompts), "-o", str(tmp_path / "o.jsonl")]
    limited = "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.argv = sys.argv[1:];"
    limited += "runpy.run_module('clusterlm', run_name='__main__')"
    first = subprocess.run([sys.executable, "-c", limited, *command[2:]], capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    assert "no space left" in first.stderr and "Traceback" not in first.stderr
    log = (tmp_path / "o.jsonl.run" / "results.jsonl").read_bytes()
    assert log.endswith(b"\n") or not log
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert len(lines_of(tmp_path / "o.jsonl")) == 60


def test_python_yields_results_in_the_order_of_the_prompts(model: Path, prompts: Path, tmp_path: Path) -> None:
    results = list(library.generate(model, PROMPTS, max_new_tokens=6))
    done(model, prompts, "-o", tmp_path / "answers.jsonl", "--max-new-tokens", 6)
    assert [result.choices[0].text for result in results] == [a["text"] for a in lines_of(tmp_path / "answers.jsonl")]


def test_runs_are_listed_and_shown_with_their_environment(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "listed.jsonl"
    done(model, prompts, "-o", output, "--max-new-tokens", 2)
    listed = json.loads(clusterlm("runs", "list", "--json").stdout)
    [run] = [run for run in listed if run["folder"] == f"{output}.run"]
    assert (run["state"], run["done"], run["failed"], run["requests"]) == ("finished", 4, 0, 4)
    assert "listed.jsonl" in clusterlm("runs", "list").stdout
    shown = json.loads(clusterlm("runs", "show", output, "--json").stdout)
    environment = shown["environment"]
    assert environment["packages"]["torch"]
    assert environment["model"]["fingerprint"].startswith("sha256:")
    assert len(environment["chat_template_sha256"]) == 64
    assert "4 done + 0 failed of 4" in clusterlm("runs", "show", output).stdout


def test_a_damaged_run_hides_no_other(
    model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    names = ("whole", "empty", "torn", "other")
    for name in names:
        done(model, prompts, "-o", tmp_path / f"{name}.jsonl", "--max-new-tokens", 1)
    for name, content in zip(names[1:], ("", '{"requests": 4, "spe', '{"requests": 4}'), strict=True):
        (tmp_path / f"{name}.jsonl.run" / "run.json").write_text(content)
    listed = clusterlm("runs", "list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["RUN", "whole.jsonl"]
    for name in names[1:]:
        assert f"left out: {tmp_path}/{name}.jsonl.run: is " in listed.stderr
    shown = clusterlm("runs", "show", tmp_path / "other.jsonl")
    assert shown.exit_code == 1
    assert "is damaged: run.json lacks created, input_path, model_name, spec" in shown.stderr


def test_the_worker_continues_a_run_from_its_folder_alone(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    done(model, prompts, "-o", output, "--max-new-tokens", 5)
    whole, run = output.read_bytes(), Path(f"{output}.run")
    output.unlink()
    (run / "finished.json").unlink()
    log = run / "results.jsonl"
    log.write_bytes(log.read_bytes()[:-20])  # a torn last line
    worker = subprocess.run([sys.executable, "-m", "clusterlm.worker", str(run)], capture_output=True, text=True)
    assert worker.returncode == 0, worker.stderr
    assert output.read_bytes() == whole
