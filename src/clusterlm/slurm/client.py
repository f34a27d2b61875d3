"""Asking Slurm: the only place that starts a Slurm command. SlurmError where it is absent, silent, or refuses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterlm.errors import SlurmError
from clusterlm.slurm.values import (
    Association,
    Qos,
    SlurmNode,
    SlurmPartition,
    association_of,
    configuration_of,
    keys_and_values,
    node_of,
    partition_of,
    qos_of,
)

PATIENCE_SECONDS = 20.0
"""A controller in good health answers in less than one, a busy one of a large site in a few."""
PAUSE_SECONDS = 2.0
SPELLS_OTHERWISE = re.compile(r"SLURM_TIME_FORMAT|(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_\w+|SBATCH_WAIT")
"""Settings of a user that change what the commands print, or of which jobs, or when they return."""
PLAIN = {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0"}
"""In English; numbers of array tasks as long as they are."""
SILENT = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out)|Zero Bytes were transmitted"
    r"|slurmdbd.*not responding|[Ff]ailed to open persistent connection"
)
NOT_HEARD = re.compile(r"Unable to contact slurm controller \(connect failure\)")
"""There was nobody to hear the question."""
NO_CLUSTER = "Could not establish a configuration source"
ELSEWHERE = "run this on a login node of the cluster; on some of them `module load slurm` comes first"
SPEAKER = re.compile(r"^\w+( error)?: (error: |fatal: )?")
"""'sbatch: error: ', 'slurm_load_node error: ': who says it, before what is said."""

QOS_FIELDS = "Name,MaxWall,MaxTRESPU,MaxJobsPU,MaxSubmitPU,MaxTRES,MinTRES,GrpTRES"
ASSOCIATION_FIELDS = "Account,Partition,QOS,DefaultQOS"


class Silence(SlurmError):
    """No answer came: whether Slurm heard the question is not known."""


class NotHeard(Silence):
    """No controller was there to hear the question."""


class Refusal(SlurmError):
    """Slurm heard and said no."""

    def __init__(self, command: Sequence[str], complaint: str) -> None:
        self.complaint = complaint
        self.said = in_its_words(complaint)
        super().__init__(f"Slurm refuses: {self.said or 'without a word'}", where=" ".join(command[:4]))


@dataclass(frozen=True)
class Answer:
    output: str
    remarks: str
    """What it says besides, on the standard error output."""


def is_here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def ask(*command: str, seconds: float = PATIENCE_SECONDS) -> str:
    """What the Slurm command prints."""
    return answer(*command, seconds=seconds).output


def read(*command: str) -> str:
    """As `ask`, for questions that change nothing: a controller that is silent for a moment is asked once more."""
    begun = time.monotonic()
    try:
        return ask(*command)
    except Silence:
        time.sleep(PAUSE_SECONDS)
        return ask(*command, seconds=max(PATIENCE_SECONDS / 4, begun + PATIENCE_SECONDS - time.monotonic()))


def answer(*command: str, seconds: float = PATIENCE_SECONDS, environment: Mapping[str, str] | None = None) -> Answer:
    """`environment`: instead of that of this process."""
    settings = os.environ if environment is None else environment
    try:
        process = subprocess.Popen(
            command,
            env={name: value for name, value in settings.items() if not SPELLS_OTHERWISE.fullmatch(name)} | PLAIN,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # some sites wrap the commands in scripts: both must end
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no Slurm here: the command {command[0]} is missing", hint=ELSEWHERE) from None
    except OSError as problem:
        raise SlurmError(f"{command[0]} cannot be started: {problem}") from None
    with process:
        try:
            output, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise _silent(command, f"no answer in {seconds:g} seconds") from None
        finally:
            _end(process)
    if process.returncode:
        raise _refused(command, complaint or output)
    return Answer(output, complaint)


def configuration() -> dict[str, str]:
    """All settings of `scontrol show config`."""
    return configuration_of(ask("scontrol", "show", "config"))


def nodes() -> tuple[SlurmNode, ...]:
    return tuple(node_of(keys_and_values(line)) for line in _lines("scontrol", "--oneliner", "show", "node"))


def partitions() -> tuple[SlurmPartition, ...]:
    """Without those that are hidden from this user."""
    return tuple(partition_of(keys_and_values(line)) for line in _lines("scontrol", "--oneliner", "show", "partition"))


def qos() -> tuple[Qos, ...]:
    """With their limits. Only where accounting is kept."""
    return tuple(qos_of(row) for row in _accounting("qos", QOS_FIELDS))


def associations(user: str, cluster: str) -> tuple[Association, ...]:
    """The accounts that a user may charge; several clusters can share one accounting."""
    rows = _accounting("association", ASSOCIATION_FIELDS, f"user={user}", f"cluster={cluster}")
    return tuple(association_of(row) for row in rows)


def default_account(user: str) -> str | None:
    names = [row[0] for row in _accounting("user", "DefaultAccount", user)]
    return (names[0] or None) if names else None


def cluster_name() -> str:
    return name_in(configuration())


def name_in(settings: Mapping[str, str]) -> str:
    """ClusterName of a configuration()."""
    if "ClusterName" not in settings:
        raise SlurmError("Slurm's configuration names no cluster", where="scontrol show config")
    return settings["ClusterName"]


def _accounting(what: str, fields: str, *conditions: str) -> list[list[str]]:
    command = ("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", what, *conditions, f"format={fields}")
    return [line.split("|") for line in _lines(*command)]


def _lines(*command: str) -> list[str]:
    return [line for line in ask(*command).splitlines() if line.strip()]


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the command and what it started, where it has not ended by itself."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _refused(command: Sequence[str], complaint: str) -> SlurmError:
    said = in_its_words(complaint)
    if NO_CLUSTER in complaint:
        return SlurmError("Slurm's commands are here, but no cluster (no slurm.conf)", where=command[0], hint=ELSEWHERE)
    if SILENT.search(complaint):
        return _silent(command, said)
    return Refusal(command, complaint)


def _silent(command: Sequence[str], reason: str) -> Silence:
    whom = "Slurm's accounting" if command[0] in ("sacctmgr", "sacct") else "Slurm's controller"
    hint = "it may be down or busy: `scontrol ping` tells; else try again in a few minutes"
    if configured := os.environ.get("SLURM_CONF"):
        hint += f". SLURM_CONF is {configured}: is it this cluster's?"
    kind = NotHeard if NOT_HEARD.search(reason) else Silence
    return kind(f"{whom} does not answer ({reason})", where=" ".join(command[:4]), hint=hint)


def in_its_words(complaint: str) -> str:
    """Slurm's own words without who speaks, each line once, the last three."""
    said = [SPEAKER.sub("", line.strip()) for line in complaint.splitlines() if line.strip()]
    return "; ".join(list(dict.fromkeys(said))[-3:])
