"""The processes of a lab: known by a mark in their environment, so that no other process is ever ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "CLUSTERLM_LAB"
"""The lab's folder: every daemon has it in its environment, and what the daemons start themselves."""
MACHINE = "CLUSTERLM_LAB_MACHINE"
"""The node, or the controller, that the process belongs to."""
WRITE_OVER_THEIR_ENVIRONMENT = {"slurmstepd", "slurmscriptd"}
"""They show a title there. They are known by the log that they hold open."""
PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One that ran a moment ago."""

    pid: int
    program: str
    machine: str | None
    is_init: bool
    """The first of a machine with processes of its own: with it all others end."""

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def processes_of(folder: Path) -> list[Process]:
    """The daemons of the lab in this folder, and what they started, but for the jobs' own processes."""
    found = []
    for pid in _pids():
        settings = environment_of(pid)
        if settings.get(MARK) == str(folder):
            found.append(_process(pid, settings.get(MACHINE)))
        elif machine := _machine_by_log(pid, folder):
            found.append(_process(pid, machine))
    return found


def processes_of_jobs(folder: Path, node: str | None = None) -> list[Process]:
    """That jobs of the lab started and that are this machine's processes; `node`: only of this one."""
    found = []
    for pid in _pids():
        settings = environment_of(pid)
        on = settings.get("SLURMD_NODENAME")  # slurmd sets it, and nobody has it on the login node
        if on and Path(settings.get("SLURM_CONF", "")).parent == folder and node in (None, on):
            found.append(_process(pid, on))
    return found


def end(look: Callable[[], Iterable[Process]], *, kindly_seconds: float = 5.0, seconds: float = 10.0) -> None:
    """SIGTERM to all that `look` finds, SIGKILL to those that are left; it looks again until there are none."""
    begun = time.monotonic()
    asked: set[int] = set()
    while left := list(look()):
        elapsed = time.monotonic() - begun
        if elapsed > kindly_seconds + seconds:
            return
        for process in left:
            if elapsed >= kindly_seconds:
                process.send(signal.SIGKILL)
            elif process.pid not in asked:
                process.send(signal.SIGTERM)
                asked.add(process.pid)
        time.sleep(0.02)


def environment_of(pid: int) -> dict[str, str]:
    """Empty where it has ended, or is another user's."""
    try:
        content = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in os.fsdecode(content).split("\0") if "=" in entry)


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _machine_by_log(pid: int, folder: Path) -> str | None:
    """The node (or slurmctld) whose log a process holds open that has no environment to look at."""
    logs = folder / "log"
    with contextlib.suppress(OSError):
        if (PROC / str(pid) / "comm").read_text().strip() not in WRITE_OVER_THEIR_ENVIRONMENT:
            return None
        for opened in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                file = opened.readlink()
                if file.parent == logs:
                    return file.stem.removeprefix("slurmd-")
    return None


def _process(pid: int, machine: str | None) -> Process:
    status = {}
    with contextlib.suppress(OSError):
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
    spaces = status.get("NSpid", "").split()
    return Process(
        pid=pid,
        program=status.get("Name", "").strip(),
        machine=machine,
        is_init=len(spaces) > 1 and spaces[-1] == "1",
    )
