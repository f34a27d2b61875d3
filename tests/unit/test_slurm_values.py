"""What other versions and sites print, as published by their users, is read right.

RECORDED: printed by real clusters, found in public documents; here on one line, as --oneliner has it, and some keys and
names are left out or shortened. The lab of tests/slurm speaks for Slurm 22.05 itself.
"""

from __future__ import annotations

import pytest

from clusterlm.errors import SlurmError
from clusterlm.slurm.values import (
    GpuGres,
    configuration_of,
    gpus_of,
    keys_and_values,
    node_of,
    partition_of,
    qos_of,
    tres_of,
)

# RECORDED: Slurm 23.11.11, Taiwan's NCHC (a user's notes, August 2026)
H100_NODE = (
    "NodeName=hgpn01 Arch=x86_64 CoresPerSocket=56 CPUAlloc=9 CPUEfctv=104 CPUTot=112 CPULoad=37.41 "
    "AvailableFeatures=(null) ActiveFeatures=(null) Gres=gpu:H100:8(S:0-1) NodeAddr=hgpn01 NodeHostName=hgpn01 "
    "Version=23.11.11 OS=Linux 4.18.0-553.144.1.el8_10.x86_64 #1 SMP Mon Jul 13 11:33:25 EDT 2026 RealMemory=1900000 "
    "AllocMem=327680 FreeMem=1107433 Sockets=2 Boards=1 CoreSpecCount=8 CPUSpecList=52-55,108-111 State=MIXED "
    "ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=dev BootTime=2026-07-31T12:05:24 "
    "SlurmdStartTime=2026-07-31T12:41:41 LastBusyTime=2026-08-12T13:06:41 ResumeAfterTime=None "
    "CfgTRES=cpu=104,mem=1900000M,billing=104,gres/gpu=8 AllocTRES=cpu=9,mem=320G,gres/gpu=2 CapWatts=n/a "
    "CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/a ExtSensorsWatts=0 ExtSensorsTemp=n/a"
)
# RECORDED: Slurm 21.08.8, hardware threads, GPUs without a type (documentation of ptolemaeus, January 2023)
THREADED_NODE = (
    "NodeName=ptolemaeus Arch=x86_64 CoresPerSocket=32 CPUAlloc=32 CPUTot=128 CPULoad=11.37 AvailableFeatures=(null) "
    "ActiveFeatures=(null) Gres=gpu:8(S:0-1) NodeAddr=ptolemaeus NodeHostName=ptolemaeus Version=21.08.8 "
    "OS=Linux 5.4.0-137-generic #154-Ubuntu SMP Thu Jan 5 17:03:22 UTC 2023 RealMemory=980330 AllocMem=210304 "
    "FreeMem=298006 Sockets=2 Boards=1 State=MIXED ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A "
    "Partitions=a6000 BootTime=2023-01-18T17:54:27 CfgTRES=cpu=128,mem=980330M,billing=128,gres/gpu=8 "
    "AllocTRES=cpu=32,mem=210304M,gres/gpu=3"
)
# RECORDED: a recent Slurm, with the key Exclusive: University of Geneva's Bamboo (a support thread).
# By Slurm's own count the whole partition bills 264.
WEIGHED_PARTITION = (
    "PartitionName=private-gpu AllowGroups=private AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL "
    "Default=NO QoS=N/A DefaultTime=00:01:00 DisableRootJobs=NO Exclusive=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=7-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED Nodes=gpu004 "
    "PriorityJobFactor=4 PriorityTier=4 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF "
    "State=UP TotalCPUs=64 TotalNodes=1 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED "
    "MaxMemPerNode=UNLIMITED TRES=cpu=62,mem=750G,node=1,billing=264,gres/gpu=1,gres/gpu:nvidia_h100_nvl=1 "
    "TRESBillingWeights=CPU=1.0,Mem=0.25G,GRES/gpu=1,GRES/gpu:nvidia_a100-pcie-40gb=5,GRES/gpu:nvidia_h100_nvl=14"
)
# RECORDED: University of Pittsburgh's htc (its documentation)
QOS_PARTITION = (
    "PartitionName=htc AllowGroups=ALL AllowAccounts=ALL AllowQos=short,normal,long,htc-htc-s AllocNodes=ALL "
    "Default=YES QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=1 "
    "MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=htc-n[24-49] PriorityJobFactor=1 "
    "PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=CANCEL State=UP "
    "TotalCPUs=1792 TotalNodes=30 TRES=cpu=1792,mem=19587200M,node=30,billing=2448 "
    "TRESBillingWeights=CPU=1.0,Mem=0.128G"
)


def test_a_value_with_blanks_ends_at_the_next_key() -> None:
    values = keys_and_values(H100_NODE)
    assert values["OS"] == "Linux 4.18.0-553.144.1.el8_10.x86_64 #1 SMP Mon Jul 13 11:33:25 EDT 2026"
    assert values["CfgTRES"] == "cpu=104,mem=1900000M,billing=104,gres/gpu=8"
    assert values["ExtSensorsTemp"] == "n/a"


def test_an_empty_value_is_empty() -> None:
    assert keys_and_values("AllocTRES= CapWatts=n/a Comment=") == {"AllocTRES": "", "CapWatts": "n/a", "Comment": ""}


def test_a_comment_cannot_change_what_was_said_before_it() -> None:
    values = keys_and_values("NodeName=n1 Gres=gpu:v100:4 RealMemory=1000 Comment=was Gres=gpu:v100:8 RealMemory=1")
    assert (values["Gres"], values["RealMemory"]) == ("gpu:v100:4", "1000")


def test_the_letter_case_of_a_type_and_what_is_kept_for_the_system_are_seen() -> None:
    node = node_of(keys_and_values(H100_NODE))
    assert node.gpus == (GpuGres("H100", 8),)
    assert (node.cores, node.cpus, node.memory_mib) == (104, 104, 1900000)
    assert (node.partitions, node.features) == (("dev",), frozenset())


def test_hardware_threads_are_not_cores() -> None:
    node = node_of(keys_and_values(THREADED_NODE))
    assert node.gpus == (GpuGres(None, 8),)
    assert (node.cores, node.cpus) == (64, 128)


def test_before_slurm_22_the_cores_kept_for_the_system_are_subtracted_here() -> None:
    line = THREADED_NODE.replace("Boards=1", "Boards=1 CoreSpecCount=4 MemSpecLimit=10330")
    node = node_of(keys_and_values(line))
    assert (node.cores, node.cpus, node.memory_mib) == (60, 120, 970000)


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("(null)", ()),
        ("gpu:4", (GpuGres(None, 4),)),
        ("gpu", (GpuGres(None, 1),)),
        ("gpu:a100", (GpuGres("a100", 1),)),
        ("gpu:v100:4(S:0-1),nvme:3600G", (GpuGres("v100", 4),)),
        ("gpu:a100:3(S:0,2,3),gpu:a100_1g.5gb:7(S:1)", (GpuGres("a100", 3), GpuGres("a100_1g.5gb", 7))),
        ("gpu:nvidia_h100_nvl:1(S:2),VramPerGpu:no_consume:94G", (GpuGres("nvidia_h100_nvl", 1),)),  # RECORDED: Bamboo
        ("craynetwork:4,gpu:0", ()),
    ],
)
def test_gpus_are_found_among_other_gres(gres: str, expected: tuple[GpuGres, ...]) -> None:
    assert gpus_of(gres) == expected


def test_weights_are_those_that_slurm_bills_by() -> None:
    weights = partition_of(keys_and_values(WEIGHED_PARTITION)).billing_weights
    whole = (
        62 * weights["cpu"] + 750 * 1024 * weights["mem"] + weights["gres/gpu"] + weights["gres/gpu:nvidia_h100_nvl"]
    )
    assert int(whole) == 264


def test_limits_and_qos_of_a_partition_are_read() -> None:
    part = partition_of(keys_and_values(QOS_PARTITION))
    assert (part.limit, part.min_nodes, part.max_nodes, part.qos) == ("UNLIMITED", 1, 1, None)
    assert part.allowed_qos == ("short", "normal", "long", "htc-htc-s")
    assert (part.allowed_accounts, part.whole_nodes, part.usable) == ((), False, True)


def test_a_qos_without_limits_has_none() -> None:
    qos = qos_of(["normal", "", "", "", "", "", "", ""])
    assert (qos.limit, qos.max_running, dict(qos.most_of_user)) == (None, None, {})


def test_tres_without_a_plain_number_are_left_out() -> None:
    assert tres_of("cpu=8,mem=320G,gres/gpu=4") == {"cpu": 8, "gres/gpu": 4}


def test_a_setting_keeps_the_signs_of_equality_in_its_value() -> None:
    text = "Configuration data as of 2026-11-21\nClusterName             = lumi\nSchedulerParameters     = a=1,b=2\n"
    assert configuration_of(text)["SchedulerParameters"] == "a=1,b=2"


def test_an_answer_without_what_is_needed_is_an_error_that_names_it() -> None:
    with pytest.raises(SlurmError, match="no CPUTot"):
        node_of({"NodeName": "n1"})
