"""Inputs, outputs and endings of all kinds, as jobs: what a run here can do, a job can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.cli.running import clusterlm
from tests.slurm.lab import Lab
from tests.slurm.runs import until_over

pytestmark = pytest.mark.slow


def test_standard_input_tables_several_answers_and_a_run_file(
    lab: Lab, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    """Three runs at the same time, for each job takes seconds to begin."""
    piped, table, filed = (tmp_path / name for name in ("piped.csv", "table.parquet", "filed.jsonl"))
    settings = ("--max-new-tokens", 4)
    asked = clusterlm("generate", tiny("llama"), "-", "-o", piped, *settings, "--on", "auto", input="One\nTwo\n")
    assert asked.exit_code == 0, asked.output
    assert Path(f"{piped}.run", "input.txt").read_text() == "One\nTwo\n", "it is read once, and kept"
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text\na,One\nb,Two\nc,Three\n")
    wanted = ("--column", "text", "--n", 2, *settings, "--on", "auto", "--shards", 2)
    asked = clusterlm("generate", tiny("llama"), rows, "-o", table, *wanted)
    assert asked.exit_code == 0, asked.output
    run_file = tmp_path / "run.toml"
    lines = (f'model = "{tiny("llama")}"', f'input = "{rows}"', 'column = "text"', f'output = "{filed}"')
    run_file.write_text("\n".join((*lines, "max_new_tokens = 4\n")))
    asked = clusterlm("generate", run_file, "--on", "auto")
    assert asked.exit_code == 0, asked.output

    watched = clusterlm("runs", "watch", piped, table, filed, "--interval", 1)
    assert watched.exit_code == 0, watched.output
    here = tmp_path / "here"
    here.mkdir()
    same = ("-o", here / "piped.csv", *settings)
    assert clusterlm("generate", tiny("llama"), "-", *same, input="One\nTwo\n").exit_code == 0
    assert piped.read_bytes() == (here / "piped.csv").read_bytes()
    answers = pyarrow.parquet.read_table(table).to_pylist()
    assert [answer["id"] for answer in answers] == ["a", "a", "b", "b", "c", "c"]
    assert {answer["prompt"] for answer in answers} == {"One", "Two", "Three"}
    assert clusterlm("generate", run_file, "-o", here / "filed.jsonl").exit_code == 0
    assert filed.read_bytes() == (here / "filed.jsonl").read_bytes()


def test_a_run_with_failed_records_is_done_and_says_how_many(
    lab: Lab, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("One", "", "Three")))
    asked = clusterlm("generate", tiny("llama"), prompts, "-o", output, "--max-new-tokens", 4, "--on", "auto")
    assert asked.exit_code == 0, asked.output
    watched = clusterlm("runs", "watch", output, "--interval", 1)
    assert watched.exit_code == 3
    shown = until_over(output)
    assert (shown["state"], shown["done"], shown["failed"], shown["attempts"]) == ("finished", 2, 1, 1)
    story = {entry["event"]: entry for entry in shown["journal"]}
    assert (story["ended"]["exit_status"], story["ended"]["said"]) == (3, "done; 3 new results; the run is finished")
    assert "its work is done" in story["successor cancelled"]["said"]
    job, successor = story["started"]["job"], story["successor"]["successor"]
    assert lab.finish(job)["ExitCode"] == "3:0"
    assert lab.finish(successor)["JobState"] == "CANCELLED"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert ["error" in line and bool(line["error"]) for line in lines] == [False, True, False]
