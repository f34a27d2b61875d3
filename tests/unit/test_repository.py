"""What the repository promises about itself: a light install, no forced torch, no trace of the machine that made it."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
HEAVY = {"torch", "transformers", "accelerate", "peft", "trl", "deepspeed", "vllm", "datasets", "bitsandbytes"}
MOST_LINES = 450
"""Of one source file: read in one sitting is about 400."""


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def tracked_files() -> list[Path]:
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    if git.returncode:
        pytest.skip(f"optional: needs a git checkout, not an unpacked archive ({git.stderr.strip()})")
    return [ROOT / name for name in git.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_installing_clusterlm_alone_brings_no_torch_and_none_of_its_family() -> None:
    assert not HEAVY & {name_of(requirement) for requirement in PROJECT["dependencies"]}


def test_a_sites_own_torch_is_taken_whatever_its_version() -> None:
    assert "torch" in EXTRAS["run"]
    naming_torch = [line for lines in EXTRAS.values() for line in lines if name_of(line) == "torch"]
    assert naming_torch == ["torch"]


def test_what_the_tests_run_with_is_pinned_to_one_version_each() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    wanted = [*PROJECT["dependencies"], *EXTRAS["run"], *EXTRAS["test"], *EXTRAS["check"]]
    assert {name_of(requirement) for requirement in wanted} <= {name_of(pin) for pin in pins}


def test_no_file_names_the_machine_it_was_written_on() -> None:
    folders = [ROOT, Path(pwd.getpwuid(os.getuid()).pw_dir)]
    patterns = [rf"(?<![\w.~$}}-]){re.escape(str(folder))}(?![\w-])" for folder in folders if len(folder.parts) > 1]
    patterns += ["index" + "-url", "find" + "-links", "trusted" + "-host"]  # each site has its own; pip's settings know
    trace = re.compile("|".join(patterns))
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in tracked_files()
        for match in trace.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []


def test_every_source_file_can_be_read_in_one_sitting() -> None:
    lengths = {file.relative_to(ROOT): len(file.read_text().splitlines()) for file in (ROOT / "src").rglob("*.py")}
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES} == {}
