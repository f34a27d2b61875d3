"""A run is killed again and again, at any moment and by any signal: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.forks import fork

KILLS = 32
RECORDS = 240
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SECONDS_TO_START = 8.0
"""About what importing torch and loading takes: some kills fall into it, most behind it."""


def write_prompts(path: Path) -> None:
    words = random.Random(1)
    vocabulary = ["the", "value", "of", "an", "object", "is", "returned", "when", "class", "statement"]
    lines = (" ".join(words.choices(vocabulary, k=words.randrange(1, 30))) for _ in range(RECORDS))
    path.write_text("".join(f"{line}\n" for line in lines))


def command(model: Path, prompts: Path, output: Path) -> list[str]:
    arguments = ["generate", str(model), str(prompts), "-o", str(output), "--max-new-tokens", "40"]
    # A small budget makes the run long and lets records finish all the time.
    return [sys.executable, "-m", "clusterlm", *arguments, "--max-batch-tokens", "600"]


def results_so_far(output: Path) -> list[int]:
    log = Path(f"{output}.run") / "results.jsonl"
    if not log.exists():
        return []
    lines = log.read_bytes().split(b"\n")[:-1]  # behind the last newline there may be a torn line
    return [json.loads(line)["index"] for line in lines]


def start_and_kill(arguments: list[str], number: int, moments: random.Random) -> None:
    """At any moment of a program that starts from nothing."""
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(moments.random() * SECONDS_TO_START)
    process.send_signal(SIGNALS[number % 3])
    process.wait(timeout=60)


def kill_at_work(arguments: list[str], output: Path, number: int, moments: random.Random) -> None:
    """While results are being written, by a program that need not load its libraries first."""
    said = output.with_name(f"said-{number}")
    before, begun = len(results_so_far(output)), time.monotonic()
    process = fork(said, *arguments[2:])  # without python -m
    while len(results_so_far(output)) == before and process.is_alive() and time.monotonic() - begun < 60:
        time.sleep(0.005)
    time.sleep(moments.random() * 0.15)
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.kill(process.pid, SIGNALS[number % 3])
    process.join(timeout=60)
    assert process.exitcode is not None
    assert "Traceback" not in said.read_text(), said.read_text()


@pytest.mark.slow
def test_32_kills_lose_and_double_nothing(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    model, prompts = tiny("llama"), tmp_path / "prompts.txt"
    write_prompts(prompts)
    uninterrupted = tmp_path / "uninterrupted.jsonl"
    subprocess.run(command(model, prompts, uninterrupted), check=True, capture_output=True)

    moments = random.Random(int(os.environ.get("CLUSTERLM_CHAOS_SEED", "7")))
    killed_at_work, round_number, kills = 0, 0, 0
    while kills < KILLS:
        round_number += 1
        output = tmp_path / f"answers-{round_number}.jsonl"
        arguments = command(model, prompts, output)
        while kills < KILLS and not output.exists():
            before = len(results_so_far(output))
            if kills % 4:
                kill_at_work(arguments, output, kills, moments)
            else:
                start_and_kill(arguments, kills, moments)
            kills += 1
            found = results_so_far(output)
            killed_at_work += before < len(found) < RECORDS
            assert len(found) == len(set(found)), "a record is there twice"
            assert len(found) >= before, "a record was lost"
        subprocess.run(arguments, check=True, capture_output=True)
        assert output.read_bytes() == uninterrupted.read_bytes()
        assert sorted(results_so_far(output)) == list(range(RECORDS))
    assert killed_at_work >= KILLS // 3, "too few kills fell into the work"
