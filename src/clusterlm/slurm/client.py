"""Asking Slurm: the only place that starts a Slurm command. SlurmError where it is absent, silent, or refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

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
SPELLS_OTHERWISE = ("SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
"""Settings of a user that change what the commands print."""
SILENT = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection (refused|timed out)|Zero Bytes were transmitted"
    r"|slurmdbd.*not responding"
)
NO_CLUSTER = "Could not establish a configuration source"
ELSEWHERE = "run this on a login node of the cluster; on some of them `module load slurm` comes first"
SPEAKER = re.compile(r"^\w+( error)?: (error: |fatal: )?")
"""'sbatch: error: ', 'slurm_load_node error: ': who says it, before what is said."""

QOS_FIELDS = "Name,MaxWall,MaxTRESPU,MaxJobsPU,MaxSubmitPU,MaxTRES,MinTRES,GrpTRES"
ASSOCIATION_FIELDS = "Account,Partition,QOS,DefaultQOS"


def ask(*command: str, seconds: float = PATIENCE_SECONDS) -> str:
    """What the Slurm command prints."""
    settings = {name: value for name, value in os.environ.items() if name not in SPELLS_OTHERWISE}
    try:
        process = subprocess.Popen(
            command,
            env=settings | {"LC_ALL": "C"},
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
    return output


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
    said = _shortened(complaint)
    if NO_CLUSTER in complaint:
        return SlurmError("Slurm's commands are here, but no cluster (no slurm.conf)", where=command[0], hint=ELSEWHERE)
    if SILENT.search(complaint):
        return _silent(command, said)
    return SlurmError(f"Slurm refuses: {said or 'without a word'}", where=" ".join(command[:4]))


def _silent(command: Sequence[str], reason: str) -> SlurmError:
    whom = "Slurm's accounting" if command[0] == "sacctmgr" else "Slurm's controller"
    hint = "it may be down or busy: `scontrol ping` tells; else try again in a few minutes"
    if configured := os.environ.get("SLURM_CONF"):
        hint += f". SLURM_CONF is {configured}: is it this cluster's?"
    return SlurmError(f"{whom} does not answer ({reason})", where=" ".join(command[:4]), hint=hint)


def _shortened(complaint: str) -> str:
    """Slurm's own words without who speaks, each line once, the last three."""
    said = [SPEAKER.sub("", line.strip()) for line in complaint.splitlines() if line.strip()]
    return "; ".join(list(dict.fromkeys(said))[-3:])
