"""Batch scripts for all shipped clusters: in the site's spelling, clean for shellcheck, refused where it would be."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterlm.cluster import Cluster, find_cluster, read_cluster, shipped_clusters
from clusterlm.errors import UsageError
from clusterlm.slurm.job import Job
from clusterlm.slurm.script import script

COMMAND = ("python", "-m", "clusterlm.worker", '/scratch/it\'s a "run"')


def usable() -> Iterator[tuple[str, str, str]]:
    """Every way to ask that the shipped profiles have: cluster, partition, node type."""
    for name, path in shipped_clusters().items():
        cluster = read_cluster(path)
        if cluster.slurm and cluster.status == "current":
            yield from ((name, key, node) for key, part in cluster.partitions.items() for node in part.nodes)


def smallest(cluster: Cluster, partition: str, node_type: str | None = None, **changes: Any) -> Job:
    """The smallest job that this partition takes."""
    part = cluster.partitions[partition]
    kind = node_type or part.nodes[0]
    gpus = cluster.nodes[kind].gpus if part.min_nodes > 1 or part.min_gpus > 1 else 1
    plain: dict[str, Any] = {
        "name": "my run",
        "partition": partition,
        "node_type": kind,
        "nodes": part.min_nodes,
        "gpus_per_node": gpus,
        "cpus_per_task": 4,
        "memory_gib": 16,
        "seconds": 600,
        "account": "project_1",
        "command": COMMAND,
        "output": "/scratch/my run/%j.out",
    }
    return Job(**plain | changes)


def header(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def options_on(name: str, partition: str, **changes: Any) -> list[str]:
    cluster = find_cluster(name)
    return header(script(cluster, smallest(cluster, partition, **changes)))


def refusal(cluster: Cluster, job: Job) -> str:
    with pytest.raises(UsageError) as refused:
        script(cluster, job)
    return str(refused.value)


@pytest.mark.parametrize(("name", "partition", "node"), list(usable()))
def test_no_line_for_slurm_holds_a_shell_variable(name: str, partition: str, node: str) -> None:
    cluster = find_cluster(name)
    lines = header(script(cluster, smallest(cluster, partition, node)))
    assert lines
    assert not [line for line in lines if "$" in line]


def test_the_scripts_of_all_shipped_clusters_are_clean_for_shellcheck(tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    for name, partition, node in usable():
        cluster = find_cluster(name)
        (tmp_path / f"{name}-{partition}-{node}.sh").write_text(script(cluster, smallest(cluster, partition, node)))
    scripts = sorted(tmp_path.iterdir())
    assert len(scripts) > 20
    checked = subprocess.run(["shellcheck", "--severity=style", *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# --------------------------------------------------------------------------------------------- the site's own spelling


def test_roihu_is_asked_for_typed_gpus_and_not_for_memory() -> None:
    # CSC's own example: #SBATCH --partition=gputest / --account=<project> / --gres=gpu:gh200:1
    lines = options_on("roihu", "gputest")
    assert "--gres=gpu:gh200:1" in lines
    assert "--account=project_1" in lines
    assert not [line for line in lines if line.startswith("--mem")]
    cluster = find_cluster("roihu")
    assert "The site sets the memory: no --mem." in script(cluster, smallest(cluster, "gputest"))


def test_lumi_is_asked_for_gpus_per_node_and_whole_nodes_where_it_gives_them() -> None:
    assert {"--gpus-per-node=4", "--mem=16G", "--cpus-per-task=4"} <= set(
        options_on("lumi", "small-g", gpus_per_node=4)
    )
    assert "--exclusive" in options_on("lumi", "standard-g")
    assert "--exclusive" not in options_on("lumi", "small-g")


def test_who_takes_all_gpus_of_a_node_takes_all_its_memory() -> None:
    """sbatch(1): --mem=0 requests all memory of each node."""
    assert "--mem=0" in options_on("lumi", "small-g", gpus_per_node=8)
    assert "--mem=0" in options_on("lumi", "standard-g", gpus_per_node=4)
    assert not [line for line in options_on("roihu", "gpumedium", gpus_per_node=4) if line.startswith("--mem")]


def test_marenostrum_is_asked_by_qos_alone() -> None:
    lines = options_on("marenostrum5", "acc_ehpc")
    assert "--qos=acc_ehpc" in lines
    assert not [line for line in lines if line.startswith(("--partition", "--mem"))]


def test_vsc_is_asked_by_partition_and_qos_for_untyped_gpus() -> None:
    lines = options_on("vsc5", "zen3_0512_a100x2_devel")
    assert {"--partition=zen3_0512_a100x2", "--qos=zen3_0512_a100x2_devel", "--gres=gpu:1"} <= set(lines)


def test_a_constraint_and_a_nodes_name_select_where_only_they_do() -> None:
    assert "--constraint=gpu&hbm80g" in options_on("perlmutter", "regular", node_type="a100-80")
    assert "--nodelist=cn-m-1" in options_on("soundbendor", "soundbendor", node_type="t4")
    assert "--account=soundbendor" in options_on("soundbendor", "soundbendor", account=None)


@pytest.mark.parametrize(("seconds", "expected"), [(600, "00:10:00"), (61, "00:02:00"), (129600, "1-12:00:00")])
def test_time_is_written_as_slurm_does_in_whole_minutes(seconds: int, expected: str) -> None:
    assert f"--time={expected}" in options_on("lumi", "standard-g", seconds=seconds)


# ------------------------------------------------------------------------------------------------------------ the body


def test_models_stay_off_the_home_and_the_hub_is_not_asked_where_it_cannot_be_reached() -> None:
    def body(name: str, partition: str, **changes: Any) -> str:
        cluster = find_cluster(name)
        return script(cluster, smallest(cluster, partition, **changes))

    lumi, leonardo = body("lumi", "small-g"), body("leonardo", "boost_usr_prod")
    assert 'export HF_HOME="${HF_HOME:-/scratch/project_1/$USER/huggingface}"' in lumi
    assert 'export HF_HOME="${HF_HOME:-$SCRATCH/huggingface}"' in leonardo
    assert "HF_HUB_OFFLINE" not in lumi
    assert "export HF_HUB_OFFLINE=1" in leonardo


def test_srun_gets_the_cpus_that_the_job_has() -> None:
    cluster = find_cluster("lumi")
    assert 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"' in script(cluster, smallest(cluster, "small-g"))
    without = script(cluster, smallest(cluster, "small-g", cpus_per_task=None, memory_gib=None))
    assert "CPUS_PER_TASK" not in without
    assert "--mem" not in without


def test_modules_are_loaded_one_by_one_and_may_read_what_is_not_set() -> None:
    cluster = find_cluster("lumi")
    body = script(cluster, smallest(cluster, "small-g"))
    expected = "module use /appl/local/laifs/modules\nmodule load lumi-aif-singularity-bindings\nset -u\n"
    assert re.search(r"set -euo pipefail\n\nset \+u [^\n]*\n" + expected, body)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_cluster_out_of_service_is_refused_with_its_successor() -> None:
    puhti = find_cluster("puhti")
    message = refusal(puhti, smallest(puhti, "gpu"))
    assert "Puhti is out of service since 2026-07-31" in message
    assert "hint: use roihu" in message


def test_a_machine_without_slurm_takes_no_script() -> None:
    laptop = dataclasses.replace(find_cluster("roihu"), slurm=False)
    assert "has no Slurm" in refusal(laptop, smallest(laptop, "gputest"))


@pytest.mark.parametrize(
    ("name", "partition", "changes", "message"),
    [
        ("roihu", "gputest", {"seconds": 901}, "--time: roihu, gputest: 00:15:01 is longer than its limit, 15:00"),
        ("roihu", "gputest", {"nodes": 3}, "--nodes: roihu, gputest: a job may have 2 nodes, not 3"),
        ("roihu", "gputest", {"gpus_per_node": 5}, "a node has 4 GPUs, not 5"),
        ("roihu", "gpularge", {"gpus_per_node": 1}, "--gpus: roihu, gpularge: a job must have 4 GPUs, not 1"),
        ("leonardo", "boost_qos_bprod", {"nodes": 64}, "a job must have 65 nodes, not 64"),
        ("snellius", "gpu_a100", {"nodes": 2}, "a job on several nodes must take all 4 GPUs of each"),
        ("lumi", "small-g", {"memory_gib": 481}, "--mem: lumi, small-g: a node has 480 GiB of memory, not 481"),
        ("lumi", "small-g", {"cpus_per_task": 57}, "a node has 56 CPUs, not 57"),
        ("lumi", "small-g", {"account": None}, "--account: LUMI-G charges every job to an account"),
        ("lumi", "small-g", {"output": "$SCRATCH/%j.out"}, "--output: '$SCRATCH/%j.out': Slurm fills in no shell"),
        ("lumi", "small-g", {"output": "/a\nb"}, "a batch script cannot hold such characters here"),
    ],
)
def test_what_the_site_would_refuse_is_refused_here(
    name: str, partition: str, changes: dict[str, Any], message: str
) -> None:
    cluster = find_cluster(name)
    assert message in refusal(cluster, smallest(cluster, partition, **changes))


def test_a_node_type_that_is_not_in_the_partition_is_refused() -> None:
    snellius = find_cluster("snellius")
    job = dataclasses.replace(smallest(snellius, "gpu_a100"), node_type="h100")
    assert "snellius has no 'h100' in 'gpu_a100'" in refusal(snellius, job)
