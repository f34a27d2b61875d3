"""A real Slurm of three nodes on this machine: started once for all workers, stopped when the tests end, in any way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterlm.errors import MissingPackage
from clusterlm.slurm import lab as product
from clusterlm.slurm.lab.layout import DEFAULT_GPUS, DEFAULT_NODES
from clusterlm.slurm.lab.packages import require_packages
from clusterlm.slurm.values import keys_and_values
from tests.conftest import OWNER_OF_HOME
from tests.sharing import shared_between_workers

EXTRA = """\
PartitionName=whole Nodes=ALL MaxTime=2:00:00 MinNodes=2 MaxNodes=3 OverSubscribe=EXCLUSIVE State=UP
PartitionName=debug Nodes=ALL MaxTime=15:00 State=UP
PartitionName=closed Nodes=ALL MaxTime=1:00:00 State=DOWN
"""
WATCHDOG = """
while [ -e "/proc/$1" ] && ! grep -q '^State:.[ZX]' "/proc/$1/status" 2>/dev/null; do sleep 0.2; done
"$2" -m clusterlm lab stop --folder "$3/lab"
rm -rf "$3"
"""
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}


@dataclass(frozen=True)
class Lab:
    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def jobs(self) -> Path:
        """Where every node can write."""
        return self.folder / "jobs"

    def run(self, *command: str) -> str:
        settings = os.environ | {"SLURM_CONF": str(self.configuration), "LC_ALL": "C"}
        done = subprocess.run(command, env=settings, cwd=self.jobs, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout + done.stderr

    def until_it_works(self, *command: str) -> None:
        """What the controller hears of the accounting, it hears a moment later."""
        for _ in range(50):
            try:
                self.run(*command)
                return
            except AssertionError:
                time.sleep(0.1)
        self.run(*command)

    def submit(self, script: str) -> str:
        """The id of the job, which is checked with --test-only first."""
        handle, name = tempfile.mkstemp(suffix=".sbatch", dir=self.jobs)
        with open(handle, "w") as file:
            file.write(script)
        self.run("sbatch", "--test-only", name)
        return self.run("sbatch", "--parsable", name).strip()

    def job(self, job: str) -> dict[str, str]:
        """What Slurm says of it now."""
        return keys_and_values(self.run("scontrol", "--oneliner", "show", "job", job))

    def finish(self, job: str, seconds: float = 60) -> dict[str, str]:
        """What Slurm says of the job once it has ended."""
        return self.until(job, ENDED, seconds)

    def until(self, job: str, states: set[str], seconds: float = 60) -> dict[str, str]:
        """What Slurm says of the job once it is in one of these states."""
        deadline = time.monotonic() + seconds
        while (said := self.job(job))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {job} is not {states}: {said}"
            time.sleep(0.1)
        return said

    def until_node(self, name: str, state: str, seconds: float = 30) -> None:
        """State as sinfo spells it: idle, down*, ..."""
        deadline = time.monotonic() + seconds
        while (said := self.state_of(name)) != state:
            assert time.monotonic() < deadline, f"{name} is {said}, not {state}"
            time.sleep(0.1)

    def state_of(self, node: str) -> str:
        return self.run("sinfo", "--noheader", "--partition=gpu", f"--nodes={node}", "--format=%T").strip()

    def nodes(self) -> tuple[str, ...]:
        """Their names: two with V100, then one with A100."""
        return tuple(node.name for node in self._product.layout.nodes)

    def start_node(self, name: str) -> None:
        self._product.act(name, "start")

    def stop_node(self, name: str) -> None:
        """Its slurmd ends; its jobs go on."""
        self._product.act(name, "stop")

    def crash_node(self, name: str) -> None:
        """Its slurmd is killed; its jobs go on."""
        self._product.act(name, "crash")

    def lose(self, name: str) -> None:
        """The whole node, with its jobs."""
        self._product.act(name, "lose")

    def stop_controller(self) -> None:
        self._product.act("controller", "stop")

    def start_controller(self) -> None:
        self._product.act("controller", "start")

    @property
    def _product(self) -> product.Lab:
        return product.running_lab(self.folder)


def start(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    *,
    nodes: str = DEFAULT_NODES,
    gpus: int = DEFAULT_GPUS,
    accounting: bool = False,
    extra: str = "",
    prepare: Callable[[Lab], None] = lambda lab: None,
) -> Lab:
    """The lab of this name: one for all workers, started and prepared by the first that asks."""
    skip_without_slurm(accounting=accounting)

    def make(folder: Path) -> None:
        folder_of_lab = watched_folder() / "lab"
        started = product.start_lab(folder_of_lab, nodes=nodes, gpus=gpus, accounting=accounting, extra=EXTRA + extra)
        started.write_profile()
        lab = Lab(started.folder)
        prepare(lab)
        (folder / "address").write_text(str(lab.folder))

    return Lab(Path((shared_between_workers(tmp_path_factory, f"slurm-{name}", make) / "address").read_text()))


def skip_without_slurm(*, accounting: bool = False) -> None:
    try:
        require_packages(network=os.geteuid() == 0, accounting=accounting)
    except MissingPackage as missing:
        pytest.skip(f"needs Slurm: {missing}")


def watched_folder() -> Path:
    """A folder that is removed, and the lab in its `lab` stopped, after the process that runs the tests has ended."""
    folder = Path(tempfile.mkdtemp(prefix="clusterlm-slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munged refuses a socket below a folder that is closed to others
    owner = os.environ[OWNER_OF_HOME]
    subprocess.run(
        ["setsid", "--fork", "bash", "-c", WATCHDOG, "watchdog", owner, sys.executable, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=True,
    )
    return folder
