"""A training by several processes of this machine: torchrun starts them, the first is shown, what all say is kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from clusterlm.cli.screen import say, stopping
from clusterlm.runs.folder import RunFolder

SECONDS_BETWEEN_LOOKS = 0.2
BY_SIGNAL = 128
OF_TORCHRUN = "torchrun.log"
FAILED = re.compile(r"rank\s+: (\d+) .*\n\s*exitcode\s+: (-?\d+)")
"""In torchrun's account of a failure, which names the first one last."""


def train_on_several(run: RunFolder, processes: int) -> int:
    """Without GPUs they share the cores. The exit status: 0, that of the process that failed first, or 128 + signal."""
    logs = _new_folder(run.logs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    keep = ["--redirects", "3", "--log-dir", str(logs)]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    first = _Shown(logs)
    with stopping() as stop, open(logs / OF_TORCHRUN, "w") as own:
        torchrun = subprocess.Popen(
            [*command, *keep, "-m", "clusterlm.worker", str(run.path)],
            env=environment,
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
    if stop:
        if not first.has_spoken:
            say(f"stopped before it began ({stop[0].name}). The same command begins again.")
        return BY_SIGNAL + stop[0]
    return status and _explain(logs, processes)


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
    """What the first process says, up to a traceback: that is for who looks into its log."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._place = 0
        self._is_over = False

    @property
    def has_spoken(self) -> bool:
        return self._place > 0

    def show(self) -> None:
        file = _log_of(self._logs, 0)
        if file is None or self._is_over:
            return
        with open(file, "rb") as log:
            log.seek(self._place)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._is_over = self._is_over or line.startswith("Traceback ")
            if not self._is_over:
                say(line)


def _log_of(logs: Path, rank: int) -> Path | None:
    return next(logs.glob(f"*/attempt_0/{rank}/stderr.log"), None)


def _explain(logs: Path, processes: int) -> int:
    """Says which process ended the others, and why."""
    failed = [(int(rank), int(status)) for rank, status in FAILED.findall((logs / OF_TORCHRUN).read_text())]
    # Of those that torchrun found at one look a killed one is the cause: the others lost it, or torchrun ended them.
    failed.sort(key=lambda one: one[1] >= 0 or one[1] == -signal.SIGTERM, reverse=True)
    rank, status = failed[-1] if failed else (0, 1)
    log = _log_of(logs, rank)
    said = log.read_text(errors="replace") if log else (logs / OF_TORCHRUN).read_text()
    if status < 0:
        name = signal.Signals(-status).name
        say(f"error: process {rank} of {processes} was ended by {name}, and the others with it")
        if -status == signal.SIGKILL:
            say("hint: nobody else kills so as the kernel, where memory runs out: dmesg tells")
    elif status == 70 or "error: " not in said:
        say(f"error: process {rank} of {processes} failed: {(said.strip() or 'without a word').splitlines()[-1]}")
    else:
        if rank > 0:
            say(said[said.rindex("error: ") :].strip())
        return status
    say(f"what each process said: {logs}")
    return BY_SIGNAL - status if status < 0 else status
