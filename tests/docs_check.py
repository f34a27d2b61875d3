"""Is what the documents say there: every link leads somewhere, every clusterlm command and option shown exists.

python -m tests.docs_check [FILE.md ...]     without files: every *.md that git knows or would know
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+(\S+)")
FENCE = re.compile(r"^\s*(?P<marks>`{3,}|~{3,})\s*(?P<language>[\w-]*)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
SHELL_LANGUAGES = {"bash", "sh", "shell"}
PROMPT = "$ "


class Line(NamedTuple):
    """A line of a document; `language` is None outside of fenced blocks."""

    file: Path
    number: int
    text: str
    language: str | None


def lines_of(file: Path) -> Iterator[Line]:
    """All lines but the fences themselves."""
    marks, language = "", None
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(text)
        if fence and language is None:
            marks, language = fence["marks"], fence["language"]
        elif language is not None and text.strip() == marks:
            language = None
        else:
            yield Line(file, number, text, language)


def anchors_of(file: Path) -> set[str]:
    """The names that a forge gives to a document's headings."""
    headings = (HEADING.match(line.text) for line in lines_of(file) if line.language is None)
    titles = (re.sub(r"\]\([^)]*\)", "", heading[1]).lower() for heading in headings if heading)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def broken_links(line: Line) -> Iterator[str]:
    """What is wrong with the links of one line of text. Other sites are not asked."""
    prose = re.sub(r"`[^`]*`", "", line.text)
    for match in LINK.finditer(prose):
        target = match[1] or match[2]
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(line.file.parent / path)) if path else line.file
        if not file.is_relative_to(ROOT) and line.file.is_relative_to(ROOT):
            yield f"the link {target} leads out of the repository"
        elif not file.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and file.suffix == ".md" and anchor not in anchors_of(file):
            yield f"the link {target} names a heading that {file.name} does not have"


def shell_lines(lines: Iterable[Line]) -> Iterator[Line]:
    """The commands in fenced blocks, continued lines joined: all of a bash block, elsewhere what follows a `$ `."""
    begun: Line | None = None
    for line in lines:
        if begun is not None:
            line = begun._replace(text=begun.text + " " + line.text.strip())
        elif line.language is None:
            continue
        elif line.text.lstrip().startswith(PROMPT):
            line = line._replace(text=line.text.lstrip().removeprefix(PROMPT))
        elif line.language not in SHELL_LANGUAGES:
            continue
        begun = line._replace(text=line.text[:-1].rstrip()) if line.text.endswith("\\") else None
        if begun is None:
            yield line


def clusterlm_calls(shell_text: str) -> Iterator[list[str]]:
    """The arguments of each call of clusterlm in one line of shell: `a | clusterlm b > c` gives [["b"]]."""
    lexer = shlex.shlex(shell_text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    call: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set("();<>|&"):
            while call and re.fullmatch(r"\w+=.*", call[0]):  # NAME=value before the command
                del call[0]
            if call and Path(call[0]).name == "clusterlm":
                yield call[1:]
            # what follows < or > is a file, not a command: it can only be mistaken for one if it is named clusterlm
            call = []
        else:
            call.append(word)


def unknown_words(command: click.Command, words: list[str], name: str = "clusterlm") -> Iterator[str]:
    """The subcommands and options among `words` that the command line does not have."""
    context = click.Context(command, info_name=name)
    parameters = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    options = {text: option for option in parameters for text in [*option.opts, *option.secondary_opts]}
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            return
        if word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-[\d.]+", word):
            text, has_value, _ = word.partition("=")
            option = options.get(text) or (None if text.startswith("--") else options.get(text[:2]))
            if option is None:
                yield f"`{name}` has no option {text}"
            elif not has_value and text in options and not option.is_flag and not option.count:
                for _ in range(option.nargs):
                    next(remaining, None)
        elif isinstance(command, click.Group):
            subcommand = command.get_command(context, word)
            if subcommand is None:
                yield f"`{name}` has no command {word}"
            else:
                yield from unknown_words(subcommand, list(remaining), f"{name} {word}")
            return


def command_line() -> click.Command:
    from clusterlm.cli.main import main

    return main


def problems_of(file: Path, command: click.Command) -> Iterator[str]:
    """All that is wrong in one document, with its place."""
    lines = list(lines_of(file))
    shown = os.path.relpath(file, ROOT)
    for line in lines:
        if line.language is None:
            yield from (f"{shown}:{line.number}: {problem}" for problem in broken_links(line))
    for line in shell_lines(lines):
        try:
            calls = list(clusterlm_calls(line.text))
        except ValueError as error:  # a quotation that is not closed
            yield f"{shown}:{line.number}: not a shell command: {error}"
            continue
        for call in calls:
            yield from (f"{shown}:{line.number}: {problem}" for problem in unknown_words(command, call))


def documents() -> list[Path]:
    git = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(ROOT / name for name in listed if (ROOT / name).exists())


def main(arguments: list[str]) -> int:
    files = [Path(argument).resolve() for argument in arguments] or documents()
    command = command_line()
    problems = [problem for file in files for problem in problems_of(file, command)]
    print(*problems, f"{len(files)} documents, {len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
