"""A training of two processes, of which one or both are killed again and again: the same comes out to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from clusterlm.runs.folder import RunFolder
from tests.chaos.forks import fork
from tests.training.attempts import last_step, prepared
from tests.training.lessons import TEXTS, losses, same, weights

KILLS = 20
RANKS = 2
SETTINGS: dict[str, Any] = {
    **{"method": "lora", "lora_rank": 4, "lora_dropout": 0.1, "strategy": "ddp"},
    **{"global_batch_size": 2, "epochs": 4, "checkpoint_steps": 2},
}
"""192 steps; with dropout each depends on the random numbers of its process before it."""


@pytest.mark.slow
def test_20_kills_of_one_rank_or_both_change_no_weight(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    texts, undisturbed, output = tmp_path / "texts.jsonl", tmp_path / "undisturbed", tmp_path / "learned"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    here, run = (prepared(tiny("llama"), texts, to, **SETTINGS) for to in (undisturbed, output))
    said = tmp_path / "said.txt"
    assert ends_of(start(here, said)) == [0, 0], said.read_text()

    moments = random.Random(int(os.environ.get("CLUSTERLM_CHAOS_SEED", "7")))
    killed_at_work = 0
    for kill in range(KILLS):
        saved, made = last_step(run), steps_made(run)
        ranks = start(run, said)
        wait_for_steps(run, made + 1 + moments.randrange(3), ranks)
        time.sleep(moments.random() * 0.1)
        number = [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1][kill % 3]
        for rank in moments.choice([[0], [1], [0, 1]]):
            process = ranks[rank].pid
            assert process is not None
            os.kill(process, number)
        ends = ends_of(ranks)
        # Who was asked to stop has done so: torchrun takes any other status for a failure.
        assert -signal.SIGKILL in ends if number == signal.SIGKILL else ends == [0, 0], said.read_text()
        assert last_step(run) >= saved, "a step was lost"
        killed_at_work += steps_made(run) > made
    assert not output.exists()
    assert killed_at_work >= KILLS // 2, "too few kills fell into the work"
    assert ends_of(start(run, said)) == [0, 0], said.read_text()
    assert losses(output) == losses(undisturbed)
    assert same(weights(output), weights(undisturbed))


def start(run: RunFolder, said: Path) -> list[BaseProcess]:
    """As torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [fork(said, "clusterlm.worker", run.path, sabotage=partial(be_rank, rank, port)) for rank in range(RANKS)]


def be_rank(rank: int, port: int) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_PORT": port}
    os.environ.update(
        {name: str(value) for name, value in own.items()}, MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="1"
    )


def ends_of(ranks: list[BaseProcess]) -> list[int | None]:
    """Exit statuses; where one has failed the other is ended, as torchrun does."""
    ends = time.monotonic() + 120
    while any(one.is_alive() for one in ranks) and time.monotonic() < ends:
        if any(one.exitcode for one in ranks):
            for one in ranks:
                one.join(10)
                with suppress(ProcessLookupError):
                    one.terminate()
        time.sleep(0.02)
    return [one.exitcode for one in ranks]


def steps_made(run: RunFolder) -> int:
    """By all attempts, those that were lost and made again too."""
    return sum(file.read_bytes().count(b"\n") for file in run.path.glob("attempts/*/steps.jsonl"))


def wait_for_steps(run: RunFolder, count: int, ranks: list[BaseProcess]) -> None:
    begun = time.monotonic()
    while steps_made(run) < count and all(one.is_alive() for one in ranks):
        assert time.monotonic() - begun < 60
        time.sleep(0.01)
