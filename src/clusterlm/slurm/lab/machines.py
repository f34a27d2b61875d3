"""Machines of their own on this one: network, hostname, processes, joined by a bridge. Takes root.

The bridge is in the controller's network, where this machine's firewall does not reach; from here one interface leads
into it. A machine is a shell that waits; when it ends, all its processes end with it, as if its plug had been pulled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence

from clusterlm.errors import SlurmError
from clusterlm.slurm.lab.layout import CONTROLLER, Layout, Machine
from clusterlm.slurm.lab.packages import search_path
from clusterlm.slurm.lab.processes import MACHINE, MARK, Process, processes_of

NAMESPACES = ("--net", "--uts", "--mount", "--pid")
BRIDGE = "nodes"
PATIENCE_SECONDS = 10.0
INIT = """
set -e
hostname "$1"
mount --bind "$2/etc/hosts" /etc/hosts
mount --bind "$2/etc/resolv.conf" "$(readlink -f /etc/resolv.conf)" || true
echo ready
exec >&2
trap 'exit 0' TERM
while :; do sleep 1000 & wait "$!" || true; done
"""


def can_make_machines() -> bool:
    """Whether this user and this kernel can: root in a container often cannot."""
    if os.geteuid() != 0:
        return False
    try_it = "ip link add name try0 type bridge && ip link add name try1 type veth peer name try2"
    command = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", try_it]
    return subprocess.run(command, env=settings(), capture_output=True, check=False).returncode == 0


def settings(**more: str) -> dict[str, str]:
    """The environment of all that a lab starts: nothing of the user's gets into daemons."""
    return {"PATH": search_path(), "LC_ALL": "C", "HOME": "/", **more}


def switch_on(layout: Layout, machines: Sequence[Machine]) -> None:
    """Starts those that are off, the controller before the nodes, and joins them."""
    begun = [(machine, _begin(layout, machine)) for machine in machines]
    for machine, init in begun:
        with init:
            assert init.stdout is not None
            if init.stdout.readline() != b"ready\n":
                raise SlurmError(f"{machine.name} does not start", where=str(layout.log(f"machine-{machine.name}")))
    for machine in machines:
        _join(layout, machine)


def switch_off(layout: Layout, machines: Iterable[Machine]) -> None:
    """At once, with all that runs there."""
    inits = _inits(layout)
    gone = [inits[machine.name] for machine in machines if machine.name in inits]
    for init in gone:
        init.send(signal.SIGKILL)
    pids = {init.pid for init in gone}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while pids & {init.pid for init in _inits(layout).values()} and time.monotonic() < deadline:
        time.sleep(0.01)


def disconnect(layout: Layout) -> None:
    """Takes down this machine's side of the network; with the controller it goes by itself, a little later."""
    _run(["ip", "link", "delete", layout.interface], check=False)


def inside(layout: Layout, machine: Machine) -> list[str]:
    """What a command begins with that runs on that machine."""
    return ["nsenter", "--target", str(_pid(layout, machine)), *NAMESPACES]


def is_on(layout: Layout, machine: Machine) -> bool:
    return machine.name in _inits(layout)


def _begin(layout: Layout, machine: Machine) -> subprocess.Popen[bytes]:
    """It says 'ready', and goes on by itself."""
    own = ["--propagation", "private", "--fork", "--kill-child", "--mount-proc"]
    shell = ["bash", "-c", INIT, "init", machine.name, str(layout.folder)]
    with open(layout.log(f"machine-{machine.name}"), "ab") as log:
        return subprocess.Popen(
            ["setsid", "--fork", "unshare", *NAMESPACES, *own, *shell],
            env=settings(**{MARK: str(layout.folder), MACHINE: machine.name}),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )


def _join(layout: Layout, machine: Machine) -> None:
    controller = ["nsenter", "--net", "--target", str(_pid(layout, layout.controller))]
    if machine.name == CONTROLLER:
        _run(
            [
                "ip",
                "link",
                "add",
                "name",
                layout.interface,
                "type",
                "veth",
                "peer",
                "name",
                "login",
                "netns",
                controller[-1],
            ]
        )
        _ip([], f"address add {layout.login_address}/24 dev {layout.interface}", f"link set {layout.interface} up")
        bridge = [f"link add name {BRIDGE} type bridge", f"address add {machine.address}/24 dev {BRIDGE}"]
        _ip(controller, "link set lo up", *bridge, f"link set {BRIDGE} up", f"link set login master {BRIDGE} up")
        _ip(controller, f"route add default via {layout.login_address}")
        return
    cable, pid = machine.name, _pid(layout, machine)
    _run([*controller, "ip", "link", "delete", cable], check=False)  # of the machine of this name that was lost
    add = f"link add name {cable} type veth peer name eth0 netns {pid}"
    _ip(controller, add, f"link set {cable} master {BRIDGE} up")
    own = ["link set lo up", f"address add {machine.address}/24 dev eth0", "link set eth0 up"]
    _ip(["nsenter", "--net", "--target", str(pid)], *own, f"route add default via {layout.login_address}")


def _ip(where: Sequence[str], *commands: str) -> None:
    _run([*where, "ip", "-batch", "-"], "\n".join(commands))


def _run(command: Sequence[str], typed: str = "", *, check: bool = True) -> None:
    done = subprocess.run(command, input=typed, env=settings(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SlurmError(f"the lab's network cannot be made: {done.stderr.strip()}", where=typed or " ".join(command))


def _pid(layout: Layout, machine: Machine) -> int:
    inits = _inits(layout)
    if machine.name not in inits:
        raise SlurmError(f"{machine.name} is off", hint=f"clusterlm lab node {machine.name} start")
    return inits[machine.name].pid


def _inits(layout: Layout) -> dict[str, Process]:
    return {process.machine: process for process in processes_of(layout.folder) if process.is_init and process.machine}
