"""A real Slurm of three nodes on this machine: started once for all workers, stopped when the tests end, in any way."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterlm.slurm.values import keys_and_values
from tests.conftest import OWNER_OF_HOME
from tests.sharing import shared_between_workers

TOOLS = Path(__file__).parents[3] / "shared" / "slurmlab"
PACKAGES = "slurm-wlm munge iproute2"
ACCOUNTING_PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
EXTRA = """\
PartitionName=whole Nodes=ALL MaxTime=2:00:00 MinNodes=2 MaxNodes=3 OverSubscribe=EXCLUSIVE State=UP
PartitionName=debug Nodes=ALL MaxTime=15:00 State=UP
PartitionName=closed Nodes=ALL MaxTime=1:00:00 State=DOWN
"""
WATCHDOG = """
while [ -e "/proc/$1" ] && ! grep -q '^State:.[ZX]' "/proc/$1/status" 2>/dev/null; do sleep 0.2; done
"$2/down.sh" "$3/lab" || true
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

    def finish(self, job: str, seconds: float = 60) -> dict[str, str]:
        """What Slurm says of the job once it has ended."""
        for _ in range(int(seconds / 0.1)):
            said = keys_and_values(self.run("scontrol", "--oneliner", "show", "job", job))
            if said["JobState"] in ENDED:
                return said
            time.sleep(0.1)
        raise AssertionError(f"job {job} has not ended: {said}")


def start(
    tmp_path_factory: pytest.TempPathFactory, *options: str, prepare: Callable[[Lab], None] = lambda lab: None
) -> Lab:
    """The lab with these options of up.sh: one for all workers, started and prepared by the first that asks."""
    commands = ["slurmctld", "munged", "ip"] + (["slurmdbd", "mariadbd"] if "--acct" in options else [])
    packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if "--acct" in options else PACKAGES
    if not all(shutil.which(command, path=f"{os.environ['PATH']}:/usr/sbin") for command in commands):
        pytest.skip(f"needs Slurm: apt-get install --no-install-recommends {packages}")
    if not TOOLS.is_dir():
        pytest.skip(f"needs the scripts that start a Slurm on one machine, in {TOOLS}")

    def make(folder: Path) -> None:
        lab = _started(options)
        prepare(lab)
        (folder / "address").write_text(str(lab.folder))

    name = f"slurm{''.join(options)}"
    return Lab(Path((shared_between_workers(tmp_path_factory, name, make) / "address").read_text()))


def _started(options: tuple[str, ...]) -> Lab:
    folder = Path(tempfile.mkdtemp(prefix="clusterlm-slurm-", dir="/tmp"))
    folder.chmod(0o755)  # its daemons refuse a socket below a folder that is closed to others
    _watch(folder)
    (folder / "extra.conf").write_text(EXTRA)
    with open(folder / "up.log", "w") as log:  # not a pipe, which its daemons would hold open
        command = [TOOLS / "up.sh", folder / "lab", "--index", "auto", "--extra", folder / "extra.conf", *options]
        started = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=180)
    assert started.returncode == 0, (folder / "up.log").read_text()
    return Lab(folder / "lab")


def _watch(folder: Path) -> None:
    """Stops the lab after the process that runs the tests, even if that was killed."""
    owner = os.environ[OWNER_OF_HOME]
    subprocess.run(
        ["setsid", "--fork", "bash", "-c", WATCHDOG, "watchdog", owner, TOOLS, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=True,
    )
