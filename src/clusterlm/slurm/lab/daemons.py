"""The daemons of a lab: started as the system would, each waited for, ended by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clusterlm.errors import SlurmError
from clusterlm.slurm.lab import machines
from clusterlm.slurm.lab.layout import Layout, Machine
from clusterlm.slurm.lab.processes import MACHINE, MARK, Process, end, processes_of

PATIENCE_SECONDS = 30.0
LINES_SHOWN = 12
WHOLE_MACHINE_IDS = "4294967295"


def start_munged(layout: Layout) -> None:
    """Every message of the lab is sealed with a key of its own."""
    key = layout.folder / "munge" / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    options = [f"--key-file={key}", f"--socket={layout.munge_socket}", f"--pid-file={layout.folder}/run/munged.pid"]
    options += [f"--log-file={layout.log('munged')}", f"--seed-file={layout.folder}/munge/seed", "--num-threads=4"]
    if Path("/proc/self/uid_map").read_text().split()[2] != WHOLE_MACHINE_IDS:
        options.append("--force")  # in a container /tmp seems to be a stranger's, which it else refuses
    start(layout, "munged", ["munged", *options])


def start_slurmctld(layout: Layout) -> None:
    """Until it takes connections: a command that comes too early waits for a whole second."""
    start(layout, "slurmctld", ["slurmctld", "-f", str(layout.daemons_conf)], layout.controller)
    takes_connections = partial(answers, socket.AF_INET, (layout.controller.address, layout.controller.port))
    wait_until(takes_connections, lambda: failed(layout, "slurmctld", "slurmctld does not answer"))


def start_slurmd(layout: Layout, node: Machine) -> None:
    start(layout, f"slurmd-{node.name}", ["slurmd", "-f", str(layout.daemons_conf), "-N", node.name], node)


def start(layout: Layout, name: str, command: list[str], machine: Machine | None = None, **more: str) -> None:
    """Until it has gone to the background. SlurmError with the end of its log where it does not."""
    settings = machines.settings(**{MARK: str(layout.folder)}, **more)
    if machine:
        settings[MACHINE] = machine.name
    where = machines.inside(layout, machine) if machine and layout.mode == "netns" else []
    with open(layout.log(f"{name}.start"), "ab") as log:
        try:
            done = subprocess.run(
                [*where, *command],
                env=settings,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise failed(layout, name, f"{name} has not started in {PATIENCE_SECONDS:g} seconds") from None
    if done.returncode:
        raise failed(layout, name, f"{name} does not start")


def failed(layout: Layout, name: str, problem: str) -> SlurmError:
    """With the last lines that the daemon wrote."""
    said: list[str] = []
    for log in (layout.log(f"{name}.start"), layout.log(name)):
        if log.exists():
            said += log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
    tail = "".join(f"\n  {line}" for line in said) or " (it wrote nothing)"
    return SlurmError(f"{problem}; the end of its log:{tail}", where=str(layout.log(name)))


def wait_until(ready: Callable[[], bool], otherwise: Callable[[], SlurmError]) -> None:
    """Looks again and again, and gives up after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise otherwise()
        time.sleep(0.03)


def answers(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as connection:
        connection.settimeout(1)
        return connection.connect_ex(address) == 0


def daemons(layout: Layout, program: str, machine: Machine | None = None) -> list[Process]:
    """Those that run, by the name of their program."""
    return [
        process
        for process in processes_of(layout.folder)
        if process.program == program and (machine is None or process.machine == machine.name)
    ]


def stop(layout: Layout, program: str, machine: Machine | None = None) -> None:
    end(partial(daemons, layout, program, machine))


def crash(layout: Layout, program: str, machine: Machine) -> None:
    """Nothing but the daemon itself: its jobs go on."""
    for process in daemons(layout, program, machine):
        process.send(signal.SIGKILL)
    end(partial(daemons, layout, program, machine), kindly_seconds=0)


@contextmanager
def logged_in(layout: Layout) -> Iterator[None]:
    """Slurm's commands speak to this lab."""
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ |= {"SLURM_CONF": str(layout.slurm_conf), "PATH": machines.settings()["PATH"]}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
