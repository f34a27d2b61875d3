"""Lab: started, asked, stopped; its nodes stopped and lost. All of it is under one folder."""

from __future__ import annotations

import getpass
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from clusterlm.errors import SlurmError, UsageError
from clusterlm.slurm import client
from clusterlm.slurm.lab import daemons, machines
from clusterlm.slurm.lab.accounting import start_accounting
from clusterlm.slurm.lab.configuration import CGROUPS, configuration_files, devices
from clusterlm.slurm.lab.layout import (
    CONTROLLER,
    DEFAULT_GPUS,
    DEFAULT_NODES,
    MOST_GPUS,
    Layout,
    Machine,
    Mode,
    gpu_types_of,
    read_layout,
)
from clusterlm.slurm.lab.packages import require_packages
from clusterlm.slurm.lab.place import free_index, loopback_of_this_machine, make_folder, one_start_at_a_time
from clusterlm.slurm.lab.processes import Process, end, processes_of, processes_of_jobs
from clusterlm.slurm.values import keys_and_values

OWN_FOLDERS = ("state", "spool", "log", "run", "munge", "dev", "etc", "tmp", "database")
"""A start empties them; `jobs`, where every user may write, it leaves alone."""
SECONDS_FOR_JOBS = 5.0
"""That a stop gives to jobs that are this machine's processes."""
Action = Literal["start", "stop", "crash", "lose"]


@dataclass(frozen=True)
class NodeStatus:
    """A node, as the controller sees it."""

    name: str
    gpus: int
    gpu_type: str
    address: str
    state: str


@dataclass(frozen=True)
class Status:
    """How a lab is now."""

    folder: Path
    running: bool
    cluster: str | None = None
    mode: Mode | None = None
    accounting: bool = False
    controller: str = "down"
    nodes: tuple[NodeStatus, ...] = ()


@dataclass(frozen=True)
class Lab:
    """A Slurm cluster in a folder."""

    layout: Layout

    @property
    def folder(self) -> Path:
        return self.layout.folder

    @property
    def slurm_conf(self) -> Path:
        return self.layout.slurm_conf

    @property
    def profile(self) -> Path:
        """Of this cluster, where it was written: beside slurm.conf it is found by its name."""
        return self.folder / "clusterlm" / "lab.toml"

    def stop(self) -> None:
        """All its processes, and what the kernel keeps for it. The folder stays, with the logs."""
        stop(self.layout)

    def write_profile(self) -> None:
        """What `clusterlm clusters probe` would, but for the memory: nodes claim more than this machine may have."""
        from clusterlm.slurm.observation import observe
        from clusterlm.slurm.probe import probe
        from clusterlm.slurm.profile_text import profile_text

        with daemons.logged_in(self.layout):
            cluster = probe(observe(), self.profile.stem).cluster
        nodes = {name: replace(node, host_memory_gib=None) for name, node in cluster.nodes.items()}
        access = replace(cluster.access, internet=True)
        self.profile.parent.mkdir(exist_ok=True)
        self.profile.write_text(profile_text(replace(cluster, nodes=nodes, access=access)), encoding="utf-8")

    def status(self) -> Status:
        layout = self.layout
        answers, states = True, {}
        try:
            states = self._node_states()
        except SlurmError:
            answers = False
        nodes = tuple(
            NodeStatus(node.name, layout.gpus, str(node.gpu_type), node.address, states.get(node.name, "unknown"))
            for node in layout.nodes
        )
        up = "up" if answers else "down"
        return Status(self.folder, True, layout.cluster, layout.mode, layout.accounting, up, nodes)

    def is_running(self) -> bool:
        return bool(processes_of(self.folder))

    def act(self, name: str, action: Action) -> None:
        """On a node: start, stop (slurmd ends, its jobs go on), crash (the same at once), lose (the whole machine)."""
        if name == CONTROLLER:
            self._act_on_controller(action)
            return
        node = self.layout.node(name)
        acts = {"start": self._start, "stop": self._stop, "crash": self._crash, "lose": self._lose}
        acts[action](node)

    def _act_on_controller(self, action: Action) -> None:
        if action == "start":
            if not daemons.daemons(self.layout, "slurmctld"):
                daemons.start_slurmctld(self.layout)
        elif action == "stop":
            daemons.stop(self.layout, "slurmctld")
        elif action == "crash":
            daemons.crash(self.layout, "slurmctld", self.layout.controller)
        else:
            raise UsageError("a lab without its controller is none", where=action, hint="crash it, or stop the lab")

    def _start(self, node: Machine) -> None:
        if self.layout.mode == "netns" and not machines.is_on(self.layout, node):
            machines.switch_on(self.layout, [node])
        if not daemons.daemons(self.layout, "slurmd", node):
            daemons.start_slurmd(self.layout, node)

    def _stop(self, node: Machine) -> None:
        daemons.stop(self.layout, "slurmd", node)

    def _crash(self, node: Machine) -> None:
        daemons.crash(self.layout, "slurmd", node)

    def _lose(self, node: Machine) -> None:
        if self.layout.mode == "netns":
            machines.switch_off(self.layout, [node])
        else:
            end(partial(_of_node, self.layout, node), kindly_seconds=0)
        spool = self.folder / "spool" / node.name
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir(exist_ok=True)

    def _node_states(self) -> dict[str, str]:
        with daemons.logged_in(self.layout):
            said = client.ask("sinfo", "--noheader", "--Node", "--format=%N %T", seconds=5)
        return dict(line.split() for line in said.splitlines())


def find_lab(folder: Path) -> Lab | None:
    """That is, or was, in this folder."""
    layout = read_layout(folder.expanduser().resolve())
    return Lab(layout) if layout else None


def running_lab(folder: Path) -> Lab:
    """SlurmError where none runs."""
    found = find_lab(folder)
    if found is None or not found.is_running():
        raise SlurmError(f"no lab is running in {folder}", hint="clusterlm lab start; another one: --folder DIR")
    return found


def lab_status(folder: Path) -> Status:
    found = find_lab(folder)
    return found.status() if found and found.is_running() else Status(folder, running=False)


def start_lab(
    folder: Path,
    *,
    nodes: str = DEFAULT_NODES,
    gpus: int = DEFAULT_GPUS,
    accounting: bool = False,
    mode: Mode | None = None,
    users: Iterable[str] = (),
    extra: str = "",
) -> Lab:
    """Until every node is idle. What cannot start leaves nothing running: SlurmError, UsageError, MissingPackage.

    `users` may charge the account besides root and this user; `extra` goes to the end of slurm.conf.
    """
    folder, gpu_types = folder.expanduser().resolve(), gpu_types_of(nodes)
    if not 1 <= gpus <= MOST_GPUS:
        raise UsageError(f"a node has 1 to {MOST_GPUS} GPUs, not {gpus}", where="--gpus")
    require_packages(network=mode == "netns" or (mode is None and os.geteuid() == 0), accounting=accounting)
    make_folder(folder)
    chosen = mode or ("netns" if machines.can_make_machines() else "plain")
    loopback = loopback_of_this_machine() if chosen == "plain" else ""
    with one_start_at_a_time():
        _clear(folder)
        layout = Layout(folder, free_index(), chosen, gpu_types, gpus, accounting, getpass.getuser(), loopback)
        _prepare(layout, extra)
        try:
            _start_all(layout, sorted({"root", layout.user, *users}))
        except BaseException:
            stop(layout)
            raise
    return Lab(layout)


def stop(layout: Layout) -> None:
    if layout.mode == "netns":
        running = machines.is_on(layout, layout.controller)
        machines.switch_off(layout, (*layout.nodes, layout.controller))
        if running:
            machines.disconnect(layout)
    else:
        _end_jobs(layout)
    end(partial(processes_of, layout.folder), kindly_seconds=2)
    _remove_cgroups(layout)


def _clear(folder: Path) -> None:
    """What an earlier lab left there. UsageError where one runs, or where the folder is something else."""
    before = find_lab(folder)
    if before and before.is_running():
        hint = f"export SLURM_CONF={before.slurm_conf} to use it, or clusterlm lab stop --folder {folder}"
        raise UsageError(f"a lab runs in {folder}", where="clusterlm lab start", hint=hint)
    if before:
        before.stop()
        for name in (*OWN_FOLDERS, "clusterlm"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif any(folder.iterdir()):
        raise UsageError("it is not empty, and no lab", where=f"--folder {folder}", hint="another --folder")


def _prepare(layout: Layout, extra: str) -> None:
    folder = layout.folder
    for name in OWN_FOLDERS:
        (folder / name).mkdir()
    for closed in ("munge", "database", "tmp", "run/database"):
        (folder / closed).mkdir(exist_ok=True)
        (folder / closed).chmod(0o700)
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "jobs").chmod(0o1777)
    for node in layout.nodes:
        (folder / "spool" / node.name).mkdir()
        for device in devices(layout, node):
            device.parent.mkdir(exist_ok=True)
            device.symlink_to("/dev/null")
    for name, content in configuration_files(layout, extra).items():
        (folder / name).write_text(content)
    for program in folder.glob("etc/task_prolog"):
        program.chmod(0o755)
    if layout.accounting:
        layout.slurmdbd_conf.chmod(0o600)  # slurmdbd insists
    layout.write()


def _start_all(layout: Layout, users: Sequence[str]) -> None:
    daemons.start_munged(layout)
    if layout.mode == "netns":
        machines.switch_on(layout, (layout.controller, *layout.nodes))
    if layout.accounting:
        start_accounting(layout, users)
    daemons.start_slurmctld(layout)
    for node in layout.nodes:
        daemons.start_slurmd(layout, node)
    with daemons.logged_in(layout):
        daemons.wait_until(partial(_all_idle, layout), lambda: _not_idle(layout))


def _all_idle(layout: Layout) -> bool:
    """A node that was never heard of is called idle as well, but its slurmd has no time of start."""
    with suppress(SlurmError):
        nodes = [keys_and_values(line) for line in client.ask("scontrol", "--oneliner", "show", "node").splitlines()]
        ready = [node for node in nodes if node.get("State") == "IDLE" and node.get("SlurmdStartTime") != "None"]
        return len(ready) == len(layout.nodes)
    return False


def _not_idle(layout: Layout) -> SlurmError:
    """The log of the daemon that is to blame: a slurmd that has ended, else the controller's."""
    ended = [node.name for node in layout.nodes if not daemons.daemons(layout, "slurmd", node)]
    name = f"slurmd-{ended[0]}" if ended else "slurmctld"
    return daemons.failed(layout, name, f"the nodes are not ready after {daemons.PATIENCE_SECONDS:g} seconds")


def _end_jobs(layout: Layout) -> None:
    """In plain mode, where they are processes like others; what Slurm does not end in time is killed."""
    with daemons.logged_in(layout), suppress(SlurmError):
        if daemons.daemons(layout, "slurmctld"):
            jobs = client.ask("squeue", "--noheader", "--format=%A", seconds=5).split()
            if jobs:
                client.ask("scancel", *dict.fromkeys(jobs), seconds=5)
            deadline = time.monotonic() + SECONDS_FOR_JOBS
            while client.ask("squeue", "--noheader", seconds=5).strip() and time.monotonic() < deadline:
                time.sleep(0.1)
    daemons.stop(layout, "slurmd")
    end(lambda: [*daemons.daemons(layout, "slurmstepd"), *processes_of_jobs(layout.folder)], kindly_seconds=0)


def _of_node(layout: Layout, node: Machine) -> list[Process]:
    """slurmd first, so that nobody is told of what happens to its jobs."""
    own = [process for process in processes_of(layout.folder) if process.machine == node.name]
    return sorted(own, key=lambda process: process.program != "slurmd") + processes_of_jobs(layout.folder, node.name)


def _remove_cgroups(layout: Layout) -> None:
    """Tried again for a while: a process that has ended is in its cgroup until somebody has asked how it ended."""
    deadline = time.monotonic() + SECONDS_FOR_JOBS
    names = [f"*/slurm_{node.name}" for node in layout.nodes]
    while left := [cgroup for name in names for cgroup in CGROUPS.glob(name)]:
        for cgroup in left:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
