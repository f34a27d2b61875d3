"""Layout: what a lab is made of (nodes, addresses, ports, files), as lab.json in its folder keeps it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clusterlm.errors import SlurmError, UsageError

Mode = Literal["netns", "plain"]
"""netns: each node has its own network, hostname and processes, which takes root; plain: all on this machine."""

CONTROLLER = "controller"
DEFAULT_NODES = "v100:2 a100:1"
DEFAULT_GPUS = 4
PARTITIONS = ("gpu", "high", "low", "short")
"""Of all nodes; besides them each type of GPU has one."""
MOST_NODES = 60
"""The ports of a lab in plain mode end there."""
MOST_GPUS = 16
MOST_LABS = 60
FIRST_PORT, PORTS_OF_A_LAB = 26000, 100


@dataclass(frozen=True)
class Machine:
    """The controller, or a node."""

    name: str
    address: str
    port: int
    """Of its slurmctld or slurmd."""
    gpu_type: str | None = None


@dataclass(frozen=True)
class Layout:
    """All that the files and the daemons of a lab follow from."""

    folder: Path
    index: int
    """Labs side by side differ in it: ports, addresses, names."""
    mode: Mode
    gpu_types: tuple[str, ...]
    """One for each node."""
    gpus: int
    """Of each node."""
    accounting: bool
    user: str
    """Its daemons run as this user."""
    loopback: str = "127.0.0.1"
    """What this machine's name stands for: in plain mode the daemons listen there alone."""

    @property
    def cluster(self) -> str:
        return f"lab{self.index}"

    @property
    def interface(self) -> str:
        """This machine's side of the lab's network, in netns mode."""
        return f"clusterlm{self.index}"

    @property
    def login_address(self) -> str:
        return self._address(1)

    @property
    def first_port(self) -> int:
        return FIRST_PORT + PORTS_OF_A_LAB * self.index

    @property
    def accounting_port(self) -> int:
        return self.first_port + 19

    @cached_property
    def controller(self) -> Machine:
        return Machine(CONTROLLER, self._address(2), self.first_port + 17)

    @cached_property
    def nodes(self) -> tuple[Machine, ...]:
        prefix = f"c{self.index}node" if self.index else "node"  # a node's cgroup bears its name
        ports = [self.first_port + 18] * MOST_NODES if self.mode == "netns" else range(self.first_port + 30, 65536)
        return tuple(
            Machine(f"{prefix}{number}", self._address(10 + number), port, kind)
            for number, (kind, port) in enumerate(zip(self.gpu_types, ports, strict=False), start=1)
        )

    def node(self, name: str) -> Machine:
        """UsageError with the names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        there = ", ".join([CONTROLLER, *(node.name for node in self.nodes)])
        raise UsageError(f"no node of this lab is called {name!r}", where="NODE", hint=f"there is: {there}")

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def daemons_conf(self) -> Path:
        """What slurmctld and slurmd read."""
        return self.folder / "daemons.conf" if self.mode == "plain" else self.slurm_conf

    @property
    def slurmdbd_conf(self) -> Path:
        return self.folder / "slurmdbd.conf"

    @property
    def mariadb_conf(self) -> Path:
        return self.folder / "mariadb.cnf"

    @property
    def sockets(self) -> Path:
        return self.folder / "run"

    @property
    def munge_socket(self) -> Path:
        return self.sockets / "munge.sock"

    @property
    def database_socket(self) -> Path:
        return self.sockets / "database" / "mariadb.sock"

    def log(self, daemon: str) -> Path:
        """slurmctld, munged ... or slurmd-NODE."""
        return self.folder / "log" / f"{daemon}.log"

    def _address(self, host: int) -> str:
        return f"10.77.{self.index}.{host}" if self.mode == "netns" else self.loopback

    def write(self) -> None:
        content = {**asdict(self), "folder": str(self.folder)}
        _file(self.folder).write_text(json.dumps(content, indent=2) + "\n")


def read_layout(folder: Path) -> Layout | None:
    """Of the lab that is or was in this folder."""
    try:
        content: dict[str, Any] = json.loads(_file(folder).read_text())
        return Layout(**{**content, "folder": folder, "gpu_types": tuple(content["gpu_types"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as problem:
        hint = "if no process of that lab is left, remove its folder"
        raise SlurmError(f"cannot be read: {problem!r}", where=str(_file(folder)), hint=hint) from None


def gpu_types_of(nodes: str) -> tuple[str, ...]:
    """'v100:2 a100:1' -> v100, v100, a100. UsageError where it says anything else."""
    found: list[str] = []
    for entry in nodes.replace(",", " ").split():
        match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_.-]*):([1-9][0-9]{0,2})", entry)
        if match is None:
            hint = f'a type of GPU and how many nodes have it: --nodes "{DEFAULT_NODES}"'
            raise UsageError(f"{entry!r} is not TYPE:NUMBER", where="--nodes", hint=hint)
        if match[1].lower() in PARTITIONS:
            raise UsageError(f"{match[1]!r} is the name of a partition of every lab", where="--nodes")
        found += [match[1].lower()] * int(match[2])
    if not 1 <= len(found) <= MOST_NODES:
        raise UsageError(f"a lab has 1 to {MOST_NODES} nodes, not {len(found)}", where="--nodes")
    return tuple(found)


def _file(folder: Path) -> Path:
    return folder / "lab.json"
