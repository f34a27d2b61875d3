"""The files that configure a lab: slurm.conf and its kin, as text."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from clusterlm.slurm.lab.layout import Layout, Machine

CPUS, MEMORY_MIB = 8, 16000
"""That a node claims to have, whatever this machine has."""
CGROUPS = Path("/sys/fs/cgroup")
JOB_IDS = 60_000_000
"""Slurm's own end a little later."""
JOBS_OF_A_LAB = 10_000
"""More than one is asked for between two starts."""


def configuration_files(layout: Layout, extra: str = "") -> Mapping[str, str]:
    """Content by the name of the file; `extra` goes to the end of slurm.conf."""
    limited = memory_is_limited()
    files = {
        "slurm.conf": _lines(*slurm_conf(layout, limited)) + extra,
        "gres.conf": _lines("AutoDetect=off", *(_gres(layout, node) for node in layout.nodes)),
        "etc/hosts": Path("/etc/hosts").read_text() + _lines(*_hosts(layout)),
        "etc/resolv.conf": "nameserver 127.0.0.1\n",  # answers at once that nobody is there: no job waits for a name
    }
    files["etc/task_prolog"] = _lines(*_task_prolog(layout))
    if layout.mode == "plain":
        files["daemons.conf"] = _lines(f"Include {layout.slurm_conf}", LISTEN_AT_HOME)
    if limited:
        files["cgroup.conf"] = _lines(*_settings(CGROUP))
    if layout.accounting:
        files |= {"slurmdbd.conf": _lines(*_slurmdbd_conf(layout)), "mariadb.cnf": _lines(*_mariadb_conf(layout))}
    return files


def _task_prolog(layout: Layout) -> Iterator[str]:
    """What it prints is set for every process of a job."""
    yield "#!/bin/sh"
    yield "# The nodes have the CPUs of this one machine, and claim more."
    yield "echo export OMP_NUM_THREADS=1"
    if layout.mode == "plain":
        yield f"echo export SLURM_CONF={layout.slurm_conf}"


def memory_is_limited() -> bool:
    """Whether a job that takes too much memory is ended by the kernel; else Slurm looks once a second."""
    probe = CGROUPS / "memory" / f"clusterlm-{time.monotonic_ns()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


LISTEN_AT_HOME = "CommunicationParameters=NoAddrCache,NoInAddrAny,NoCtldInAddrAny"
"""Only on the address that this machine's name stands for. srun must not be so choosy: where that is 127.0.1.1, as on
Debian, it is answered on 127.0.0.1. So daemons alone are told, and jobs do not inherit their configuration."""
CGROUP = {
    "CgroupPlugin": "cgroup/v1",
    "CgroupAutomount": "no",
    "CgroupMountpoint": str(CGROUPS),
    "ConstrainRAMSpace": "yes",
    "ConstrainSwapSpace": "no",
    "ConstrainCores": "no",
    "ConstrainDevices": "no",
}
QUICK = {
    # A rehearsal is over in minutes: what takes Slurm minutes by default takes seconds here.
    "KillWait": "3",
    "CompleteWait": "0",
    "MinJobAge": "600",
    "SlurmdTimeout": "6",
    "SlurmctldTimeout": "30",
    "MessageTimeout": "5",
    "TCPTimeout": "2",
    "BatchStartTimeout": "5",
    "UnkillableStepTimeout": "30",
    "PriorityCalcPeriod": "1",
    "JobAcctGatherFrequency": "task=1",
    "SchedulerParameters": "bf_interval=2,bf_min_age_reserve=0,sched_interval=5,sched_min_interval=20000"
    ",default_queue_depth=1000",
}
USUAL = {
    "AuthType": "auth/munge",
    "MailProg": "/bin/true",
    "MpiDefault": "none",
    "ReturnToService": "2",
    "SlurmdParameters": "config_overrides",  # nodes claim more CPUs and memory than this machine has
    "SlurmctldParameters": "preempt_send_user_signal",
    "GresTypes": "gpu",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerCPU": str(MEMORY_MIB // CPUS),
    "SchedulerType": "sched/backfill",
    "PriorityType": "priority/multifactor",
    "PriorityWeightAge": "1000",
    "PriorityWeightFairshare": "10000",
    "PriorityWeightJobSize": "100",
    "PriorityWeightPartition": "1000",
    "PriorityWeightQOS": "10000",
    "JobRequeue": "1",
    "RequeueExit": "99",
    "InactiveLimit": "0",
    "OverTimeLimit": "0",
    "EnforcePartLimits": "ALL",
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "PreemptExemptTime": "0",
}


def slurm_conf(layout: Layout, limited: bool) -> Iterator[str]:
    """The lines of slurm.conf; `limited`: memory by cgroups."""
    yield from _settings(_own(layout))
    yield from _settings(USUAL | QUICK)
    yield from _settings(_processes(limited))
    yield from _settings(_accounting(layout))
    for node in layout.nodes:
        yield _node(layout, node)
    yield from _partitions(layout)


def _own(layout: Layout) -> dict[str, str]:
    folder, controller = layout.folder, layout.controller
    plain = layout.mode == "plain"
    host = socket.gethostname().split(".")[0] if plain else controller.name
    # In netns mode all addresses that a daemon has are the lab's.
    listening = {} if plain else {"CommunicationParameters": "NoAddrCache"}
    return {
        "ClusterName": layout.cluster,
        "TaskProlog": f"{folder}/etc/task_prolog",
        "SlurmctldHost": f"{host}({controller.address})",
        "SlurmctldAddr": controller.address,
        "SlurmctldPort": str(controller.port),
        "SlurmdPort": str(layout.nodes[0].port),
        "SlurmUser": layout.user,
        "SlurmdUser": layout.user,
        "AuthInfo": f"socket={layout.munge_socket}",
        **listening,
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd-%n.pid",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldLogFile": str(layout.log("slurmctld")),
        "SlurmdLogFile": str(layout.log("slurmd-%n")),
        "SlurmctldDebug": "info",
        "SlurmdDebug": "info",
        "FirstJobId": str(_first_job(layout)),
    }


def _first_job(layout: Layout) -> int:
    """A number that an earlier lab gave to a job must not mean another one today: by the clock, and beyond what the
    lab in the same folder gave a moment ago.
    """
    by_clock = int(time.time()) % JOB_IDS + 1
    try:
        found = re.search(r"^FirstJobId=(\d+)$", layout.daemons_conf.read_text(), re.MULTILINE)
    except OSError:
        return by_clock
    return max(by_clock, int(found[1]) + JOBS_OF_A_LAB) if found else by_clock


def _processes(limited: bool) -> dict[str, str]:
    if limited:
        return {
            "ProctrackType": "proctrack/cgroup",
            "TaskPlugin": "task/cgroup",
            "JobAcctGatherType": "jobacct_gather/linux",
        }
    return {
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherParams": "OverMemoryKill",
    }


def _accounting(layout: Layout) -> dict[str, str]:
    if not layout.accounting:
        return {
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": str(layout.log("jobs")),
        }
    types = ",".join(f"gres/gpu:{kind}" for kind in dict.fromkeys(layout.gpu_types))
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": layout.controller.address,
        "AccountingStoragePort": str(layout.accounting_port),
        "AccountingStoragePass": str(layout.munge_socket),
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": f"gres/gpu,{types}",  # without slurmdbd this line is fatal
    }


def _node(layout: Layout, node: Machine) -> str:
    host = node.name if layout.mode == "netns" else "localhost"
    return (
        f"NodeName={node.name} NodeHostname={host} NodeAddr={node.address} Port={node.port} CPUs={CPUS}"
        f" RealMemory={MEMORY_MIB} Gres=gpu:{node.gpu_type}:{layout.gpus} Feature={node.gpu_type}"
    )


def _partitions(layout: Layout) -> Iterator[str]:
    """One for each type of GPU, and four for all: usual, short, and two that may preempt and be preempted."""
    day = "MaxTime=1-00:00:00 State=UP"
    yield f"PartitionName=gpu Nodes=ALL {day} Default=YES DefaultTime=10 PriorityTier=10 PreemptMode=OFF"
    yield f"PartitionName=high Nodes=ALL {day} PriorityTier=100 PreemptMode=OFF"
    yield f"PartitionName=low Nodes=ALL {day} PriorityTier=1 PreemptMode=REQUEUE GraceTime=5"
    yield "PartitionName=short Nodes=ALL MaxTime=00:02:00 State=UP PriorityTier=10"
    ordered = sorted(layout.nodes, key=lambda node: str(node.gpu_type))
    for kind, nodes in groupby(ordered, key=lambda node: node.gpu_type):
        yield f"PartitionName={kind} Nodes={','.join(node.name for node in nodes)} {day} PriorityTier=10"


def devices(layout: Layout, node: Machine) -> list[Path]:
    """What slurmd takes for GPUs: it only looks whether they are devices."""
    return [layout.folder / "dev" / node.name / f"nvidia{number}" for number in range(layout.gpus)]


def _gres(layout: Layout, node: Machine) -> str:
    files = f"{layout.folder}/dev/{node.name}/nvidia[0-{layout.gpus - 1}]"
    return f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={files}"


def _hosts(layout: Layout) -> Iterator[str]:
    for machine in (layout.controller, *layout.nodes):
        yield f"{machine.address} {machine.name}"


def _slurmdbd_conf(layout: Layout) -> Iterator[str]:
    plain = layout.mode == "plain"
    return _settings(
        {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={layout.munge_socket}",
            "DbdHost": "localhost" if plain else layout.controller.name,
            "DbdAddr": layout.controller.address,
            "DbdPort": str(layout.accounting_port),
            **({"CommunicationParameters": "NoInAddrAny"} if plain else {}),
            "SlurmUser": layout.user,
            "DebugLevel": "info",
            "LogFile": str(layout.log("slurmdbd")),
            "PidFile": f"{layout.folder}/run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",  # by its socket: MYSQL_UNIX_PORT
            "StorageUser": layout.user,
            "StorageLoc": "slurm",
            "CommitDelay": "1",
        }
    )


def _mariadb_conf(layout: Layout) -> Iterator[str]:
    """Small, and not made to last. No network and no passwords: who reaches the socket owns the lab."""
    yield "[mariadbd]"
    yield from (
        f"user={layout.user}",
        f"datadir={layout.folder}/database",
        f"tmpdir={layout.folder}/tmp",
        f"socket={layout.database_socket}",
        f"pid-file={layout.folder}/run/mariadbd.pid",
        f"log-error={layout.log('mariadbd')}",
        "skip-networking",
        "skip-grant-tables",
        "skip-log-bin",
        "performance_schema=OFF",
        "innodb_buffer_pool_size=64M",
        "innodb_log_file_size=16M",
        "innodb_flush_log_at_trx_commit=0",
        "innodb_flush_method=nosync",
        "innodb_lock_wait_timeout=900",
    )


def _settings(values: Mapping[str, str]) -> Iterator[str]:
    return (f"{name}={value}" for name, value in values.items())


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
