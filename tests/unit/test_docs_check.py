"""The check of the documents finds what is not so, and only that."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.docs_check import clusterlm_calls, problems_of


@click.group()
@click.option("--color", type=str)
def main(color: str) -> None: ...


@main.command()
@click.argument("model")
@click.option("-o", "--output")
@click.option("--chat/--no-chat")
def generate(**options: object) -> None: ...


@main.group()
def runs() -> None: ...


@runs.command("list")
@click.option("--json", is_flag=True)
def list_runs(**options: object) -> None: ...


def problems(folder: Path, text: str) -> list[str]:
    page = folder / "page.md"
    page.write_text(text)
    return [problem.split(": ", 1)[1] for problem in problems_of(page, main)]


def block(*lines: str, language: str = "bash") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def test_links_to_files_and_headings_that_exist_are_fine(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Nothing is lost: `kill -9`\n")
    text = "# Top\n[a](other.md) [b](other.md#nothing-is-lost-kill--9) [c](#top) [d](https://example.org/x) `[e](f)`"
    assert problems(tmp_path, text) == []


@pytest.mark.parametrize("target", ["gone.md", "page.md#gone", "#gone"])
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, target: str) -> None:
    (problem,) = problems(tmp_path, f"# Top\nsee [there]({target})")
    assert f"the link {target} " in problem


@pytest.mark.parametrize(
    "line",
    [
        "clusterlm generate MODEL -o out.jsonl --no-chat",
        "clusterlm --color never runs list --json | head > clusterlm.txt",
        "HF_HUB_OFFLINE=1 .venv/bin/clusterlm generate MODEL --output=- # and a comment with --words",
        "clusterlm --help && clusterlm runs --help",
        "cat prompts.txt | clusterlm generate MODEL -oout.jsonl -- --not-an-option",
        "pip install clusterlm --upgrade",
    ],
)
def test_commands_and_options_that_exist_are_fine(tmp_path: Path, line: str) -> None:
    assert problems(tmp_path, block(line)) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("clusterlm generat MODEL", "`clusterlm` has no command generat"),
        ("clusterlm runs list --jsn", "`clusterlm runs list` has no option --jsn"),
        ("true && clusterlm generate M --chat --n 2", "`clusterlm generate` has no option --n"),
    ],
)
def test_a_command_or_option_that_does_not_exist_is_found(tmp_path: Path, line: str, problem: str) -> None:
    assert problems(tmp_path, block(line)) == [problem]


def test_a_command_continued_over_lines_is_read_as_one(tmp_path: Path) -> None:
    assert problems(tmp_path, block("clusterlm generate MODEL \\", "    -o out \\", "    --chat --cat")) == [
        "`clusterlm generate` has no option --cat"
    ]


def test_in_a_console_block_only_what_follows_the_prompt_is_a_command(tmp_path: Path) -> None:
    text = block("$ clusterlm runs list", "clusterlm 0.1.0", "clusterlm says --hello", language="console")
    assert problems(tmp_path, text) == []


def test_an_unclosed_quotation_is_named_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, block("clusterlm generate 'MODEL"))
    assert "not a shell command" in problem


def test_each_call_in_a_pipe_is_seen() -> None:
    calls = list(clusterlm_calls("clusterlm a -x | sort | clusterlm b; clusterlm c"))
    assert calls == [["a", "-x"], ["b"], ["c"]]
