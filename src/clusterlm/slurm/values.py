"""What Slurm prints, as values: nodes, partitions, QoS, associations. Strict where it matters, deaf to what is new."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterlm.errors import SlurmError

KEY = re.compile(r"(?:^|\s)([A-Z][A-Za-z_]*)=")
"""Keys of `scontrol --oneliner` begin with a capital. Those inside a value (CfgTRES=cpu=8) follow no blank."""
LOCALITY = re.compile(r"\([^)]*\)")
"""gpu:v100:4(S:0-1): which sockets; gpu:a100:2(IDX:0,3): which cards."""
GPU_MEMORY = re.compile(r"(vram|gpu_?mem)[a-z]*:", re.IGNORECASE)
MIB_OF = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2, "P": 1024**3}
NOTHING = {"", "(null)", "N/A", "n/a", "NONE", "None", "UNLIMITED", "INFINITE", "ALL"}


@dataclass(frozen=True)
class GpuGres:
    """One entry of a node's Gres: gpu:v100:4."""

    type: str | None
    count: int


@dataclass(frozen=True)
class SlurmNode:
    """A node, as scontrol shows it."""

    name: str
    gpus: tuple[GpuGres, ...]
    architecture: str
    cores: int
    """That jobs may use, without those that are kept for the system."""
    cpus: int
    """The same, as Slurm counts: often hardware threads."""
    memory_mib: int
    """That jobs may use."""
    features: frozenset[str]
    partitions: tuple[str, ...]
    gpu_memory_gres: frozenset[str] = frozenset()
    """Entries of Gres by which some sites say the GPU's memory: VramPerGpu:no_consume:94G."""
    state: str = ""
    """As Slurm writes it: IDLE, MIXED+DRAIN, DOWN*+NOT_RESPONDING."""
    boot_time: str = ""
    """As Slurm writes it, in the local zone; None for a node that was never there."""


@dataclass(frozen=True)
class SlurmPartition:
    """A partition, as scontrol shows it."""

    name: str
    limit: str
    """MaxTime as Slurm writes it."""
    min_nodes: int
    max_nodes: int | None
    whole_nodes: bool
    qos: str | None
    """Its own, whose limits hold for every job in it."""
    allowed_qos: tuple[str, ...]
    """That a job may name; empty: all."""
    allowed_accounts: tuple[str, ...]
    """Empty: all."""
    billing_weights: Mapping[str, float]
    """By TRES in lower case: cpu, mem (per MiB), gres/gpu, gres/gpu:v100."""
    usable: bool
    """Up, and not for root alone."""


@dataclass(frozen=True)
class Qos:
    """A quality of service, with its limits for each user."""

    name: str
    limit: str | None
    max_running: int | None
    """Jobs of one user."""
    max_submitted: int | None
    most_of_user: Mapping[str, int]
    """TRES of one user at once."""
    most_of_job: Mapping[str, int]
    least_of_job: Mapping[str, int]
    most_of_all: Mapping[str, int]
    """TRES of all its jobs at once."""


@dataclass(frozen=True)
class Association:
    """An account that a user may charge."""

    account: str
    partition: str | None
    qos: tuple[str, ...]
    default_qos: str | None


def keys_and_values(line: str) -> dict[str, str]:
    """One line of `scontrol --oneliner`. Of a key's values the first counts: free text such as Comment comes late."""
    found = list(KEY.finditer(line))
    ends = [match.start() for match in found[1:]] + [len(line)]
    values: dict[str, str] = {}
    for match, end in zip(found, ends, strict=True):
        values.setdefault(match[1], line[match.end() : end].strip())
    return values


def configuration_of(text: str) -> dict[str, str]:
    """`scontrol show config`: 'ClusterName             = lumi'."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    values: dict[str, str] = {}
    for name, value in pairs:
        values.setdefault(name.strip(), value.strip())
    return values


def node_of(values: Mapping[str, str]) -> SlurmNode:
    gres = values.get("Gres", "")
    cpus = _number(values, "CPUTot")
    cores = _number(values, "Sockets", 1) * _number(values, "CoresPerSocket", 1)
    per_core = max(1, cpus // max(1, cores))  # 1 where Slurm counts cores, 2 where it counts hardware threads
    usable = _number(values, "CPUEfctv", cpus - per_core * _number(values, "CoreSpecCount", 0))  # since Slurm 22.05
    return SlurmNode(
        name=_text(values, "NodeName"),
        gpus=gpus_of(gres),
        architecture=values.get("Arch", "x86_64"),
        cores=usable // per_core,
        cpus=usable,
        memory_mib=_number(values, "RealMemory") - _number(values, "MemSpecLimit", 0),
        features=frozenset(_list(values.get("AvailableFeatures", ""))),
        partitions=_list(values.get("Partitions", "")),
        gpu_memory_gres=frozenset(entry for entry in gres.split(",") if GPU_MEMORY.match(entry)),
        state=values.get("State", ""),
        boot_time=values.get("BootTime", ""),
    )


def partition_of(values: Mapping[str, str]) -> SlurmPartition:
    return SlurmPartition(
        name=_text(values, "PartitionName"),
        limit=_text(values, "MaxTime"),
        min_nodes=max(1, _number(values, "MinNodes", 1)),
        max_nodes=_optional_number(values.get("MaxNodes", "")),
        whole_nodes=values.get("OverSubscribe", "").upper().startswith("EXCLUSIVE"),
        qos=_optional(values.get("QoS", "")),
        allowed_qos=_list(values.get("AllowQos", "")),
        allowed_accounts=_list(values.get("AllowAccounts", "")),
        billing_weights=weights_of(values.get("TRESBillingWeights", "")),
        usable=values.get("State", "UP") == "UP" and values.get("RootOnly", "NO") == "NO",
    )


def qos_of(row: Sequence[str]) -> Qos:
    """The fields of client.QOS_FIELDS, in their order."""
    name, wall, user_tres, user_jobs, user_submits, job_tres, least_tres, all_tres = row
    return Qos(
        name=name,
        limit=_optional(wall),
        max_running=_optional_number(user_jobs),
        max_submitted=_optional_number(user_submits),
        most_of_user=tres_of(user_tres),
        most_of_job=tres_of(job_tres),
        least_of_job=tres_of(least_tres),
        most_of_all=tres_of(all_tres),
    )


def association_of(row: Sequence[str]) -> Association:
    """The fields of client.ASSOCIATION_FIELDS, in their order."""
    account, partition, names, default = row
    return Association(account, _optional(partition), _list(names), _optional(default))


def gpus_of(gres: str) -> tuple[GpuGres, ...]:
    """'gpu:v100:4(S:0-1),nvme:3600G' -> one GpuGres; 'gpu:4' has no type."""
    entries = (entry.strip().split(":") for entry in LOCALITY.sub("", gres).split(","))
    gpus = [parts[1:] for parts in entries if parts[0] == "gpu"]
    found = []
    for parts in gpus:
        count = int(parts[-1]) if parts and parts[-1].isdigit() else 1
        names = parts[:-1] if parts and parts[-1].isdigit() else parts
        found.append(GpuGres(names[0] if names else None, count))
    return tuple(gpu for gpu in found if gpu.count)


def tres_of(text: str) -> dict[str, int]:
    """'cpu=8,gres/gpu=4' -> {'cpu': 8, 'gres/gpu': 4}. Memory, which has a letter, is left out."""
    pairs = (entry.split("=", 1) for entry in text.split(",") if "=" in entry)
    return {name.lower(): int(value) for name, value in pairs if value.isdigit()}


def weights_of(text: str) -> dict[str, float]:
    """'CPU=1.0,Mem=0.25G,GRES/gpu=200' -> by TRES in lower case; what memory weighs is per MiB."""
    entries = re.findall(r"([^=,\s]+)=([0-9.]+)([KMGTP]?)", text)
    return {name.lower(): float(number) / MIB_OF[letter] for name, number, letter in entries}


def _list(text: str) -> tuple[str, ...]:
    return () if text in NOTHING else tuple(text.split(","))


def _optional(text: str) -> str | None:
    return None if text in NOTHING else text


def _optional_number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _text(values: Mapping[str, str], key: str) -> str:
    if key not in values:
        raise SlurmError(f"Slurm's answer has no {key}", hint="is this a very old or a changed Slurm? please report it")
    return values[key]


def _number(values: Mapping[str, str], key: str, default: int | None = None) -> int:
    """SlurmError where it must be there and is not a number."""
    text = values.get(key, "") if default is not None else _text(values, key)
    if text.isdigit():
        return int(text)
    if default is None:
        raise SlurmError(f"Slurm's answer has {key}={text}, which is not a number")
    return default
