"""A training by several processes of this machine: torchrun starts them, the first is shown, what all say is kept."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from clusterlm.cli.screen import say, stopping
from clusterlm.errors import ClusterlmError
from clusterlm.runs.at_once import rows_too_many
from clusterlm.runs.attempt import OUTCOMES, outcomes_in
from clusterlm.runs.causes.signs import found_in
from clusterlm.runs.folder import RunFolder
from clusterlm.worker.outcome import UNEXPECTED

SECONDS_BETWEEN_LOOKS = 0.2
BY_SIGNAL = 128
OF_TORCHRUN = "torchrun.log"
FAILED = re.compile(r"rank\s+: (\d+) .*\n\s*exitcode\s+: (-?\d+)")
"""In torchrun's account of a failure, which names the first one last."""
FAILING = ("error: ", "Traceback ", "Thread ", "Current thread ", "Fatal Python error")
"""How lines begin with which a process ends badly."""


def train_on_several(run: RunFolder, processes: int) -> int:
    """Without GPUs they share the cores. Where the memory is too small, again with half as much at once.

    The exit status: 0, that of the process that failed first, or 128 + signal.
    """
    shown: set[str] = set()
    while True:
        begun = len(run.attempts())
        logs = _new_folder(run.logs)
        status, stop = _start(run, processes, _Shown(logs, shown))
        rows = max((_kept(logs, attempt) for attempt in run.attempts()[begun:]), default=0)
        if status == 0 or stop is not None:
            return BY_SIGNAL + stop if stop is not None else 0
        if rows <= 1:
            return _explain(logs, processes)
        say(f"out of memory with {rows} sequences at once on each of {processes} processes: again with {rows // 2}")


def _kept(logs: Path, attempt: Path) -> int:
    """With an attempt stands how its processes ended. The rows at once for which their memory was too small, or 0."""
    for file in logs.glob("outcome*.json"):
        shutil.copy(file, attempt)
    return rows_too_many(attempt)


def _start(run: RunFolder, processes: int, first: _Shown) -> tuple[int, signal.Signals | None]:
    """torchrun's exit status, and the signal that asked to stop."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    keep = ["--redirects", "3", "--log-dir", str(first.logs)]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    with stopping() as stop, open(first.logs / OF_TORCHRUN, "w") as own:
        torchrun = subprocess.Popen(
            [*command, *keep, "-m", "clusterlm.worker", str(run.path)],
            env={**os.environ, "OMP_NUM_THREADS": threads, OUTCOMES: str(first.logs)},
            stdout=own,
            stderr=own,
            start_new_session=True,
        )
        told = False
        while True:
            try:
                status = torchrun.wait(SECONDS_BETWEEN_LOOKS)
                break
            except subprocess.TimeoutExpired:
                first.show()
            if stop and not told:
                told = True
                _tell(torchrun, stop[0])
    first.show()
    if stop and not first.has_spoken:
        say(f"stopped before it began ({stop[0].name}). The same command begins again.")
    return status, stop[0] if stop else None


def _new_folder(logs: Path) -> Path:
    number = 1
    while (folder := logs / f"processes-{number}").exists():
        number += 1
    folder.mkdir(parents=True)
    return folder


def _tell(torchrun: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """The processes, not torchrun: it would leave them 30 seconds, which may be too short for a checkpoint."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    for process in children or [str(torchrun.pid)]:
        os.kill(int(process), number)


class _Shown:
    """What the first process says, up to how it failed: that is told once for all, and the rest is in its log."""

    def __init__(self, logs: Path, shown: set[str]) -> None:
        """`shown`: by earlier starts; of what is the same again nothing is said."""
        self.logs = logs
        self._shown = shown
        self._place = 0
        self._is_over = False

    @property
    def has_spoken(self) -> bool:
        return self._place > 0

    def show(self) -> None:
        file = _log_of(self.logs, 0)
        if file is None or self._is_over:
            return
        with open(file, "rb") as log:
            log.seek(self._place)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._is_over = self._is_over or line.startswith(FAILING)
            if not self._is_over and line not in self._shown:
                self._shown.add(line)
                say(line)


def _log_of(logs: Path, rank: int) -> Path | None:
    return next(logs.glob(f"*/attempt_0/{rank}/stderr.log"), None)


def _explain(logs: Path, processes: int) -> int:
    """Says once which process ended the others, and why; the exit status."""
    first, status = _first_that_failed(logs)
    failed = {rank: one for rank, one in outcomes_in(logs).items() if one["outcome"] == "failed"}
    if status < 0:
        name = signal.Signals(-status).name
        say(f"error: process {first} of {processes} was ended by {name}, and the others with it")
        if -status == signal.SIGKILL:
            say("hint: nobody else kills so as the kernel, where memory runs out: dmesg tells")
        status = BY_SIGNAL - status
    elif failed:
        # One that lost another comes behind that one, and what the user can mend before what nobody foresaw.
        rank = min(failed, key=lambda one: (_lost_another(failed[one]), failed[one]["exit_status"], one != first, one))
        status = int(failed[rank]["exit_status"])
        if status != UNEXPECTED:
            say(f"error: {_mistake(failed[rank])}")
            return status
        say(f"error: process {rank} of {processes} failed: {_failure(failed[rank])}")
    else:
        log = _log_of(logs, first)
        said = log.read_text(errors="replace") if log else (logs / OF_TORCHRUN).read_text()
        say(f"error: process {first} of {processes} failed: {(said.strip() or 'without a word').splitlines()[-1]}")
    say(f"what each process said: {logs}")
    return status


def _first_that_failed(logs: Path) -> tuple[int, int]:
    """Its rank, and its exit status, or below 0 the signal that ended it."""
    failed = [(int(rank), int(status)) for rank, status in FAILED.findall((logs / OF_TORCHRUN).read_text())]
    # Of those that torchrun found at one look a killed one is the cause: the others lost it, or torchrun ended them.
    failed.sort(key=lambda one: one[1] >= 0 or one[1] == -signal.SIGTERM, reverse=True)
    return failed[-1] if failed else (0, 1)


def _lost_another(outcome: dict[str, Any]) -> bool:
    found = found_in(_failure(outcome))
    return found.first is None and found.consequence is not None


def _mistake(outcome: dict[str, Any]) -> ClusterlmError:
    return ClusterlmError(outcome["problem"], where=outcome["where"], hint=outcome["hint"])


def _failure(outcome: dict[str, Any]) -> str:
    lines = outcome["problem"].strip().splitlines()
    return f"{outcome['kind']}: {lines[0] if lines else ''}"
