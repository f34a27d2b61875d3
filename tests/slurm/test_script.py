"""Scripts made from a probed profile are taken by a real sbatch, and do what they say to the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from clusterlm.cluster import Cluster
from clusterlm.slurm.job import Job
from clusterlm.slurm.observation import observe
from clusterlm.slurm.probe import probe
from clusterlm.slurm.script import script
from tests.slurm.lab import Lab

WHO = ("sh", "-c", 'echo "$(hostname) $SLURMD_NODENAME gpus=$CUDA_VISIBLE_DEVICES cpus=$(echo $SLURM_CPUS_PER_TASK)"')


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    return probe(observe(), "here").cluster


def job(lab: Lab, **changes: Any) -> Job:
    plain: dict[str, Any] = {
        "name": "who",
        "partition": "gpu",
        "node_type": "v100",
        "nodes": 1,
        "gpus_per_node": 4,
        "seconds": 60,
        "command": WHO,
        "output": str(lab.jobs / "%j.out"),
    }
    return Job(**plain | changes)


def printed(lab: Lab, cluster: Cluster, wanted: Job) -> list[str]:
    """The sorted lines of a job that came to its end."""
    number = lab.submit(script(cluster, wanted))
    ended = lab.finish(number)
    lines = sorted((lab.jobs / f"{number}.out").read_text().splitlines())
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), lines
    return lines


def gpus_in(line: str) -> int:
    """Which ones depends on what other tests hold of the node."""
    return len(line.split("gpus=")[1].split()[0].split(","))


@pytest.mark.parametrize("gres", ["typed", "untyped", "gpus-per-node"])
def test_a_job_gets_its_gpus_in_every_spelling(lab: Lab, cluster: Cluster, gres: Any) -> None:
    asking = dataclasses.replace(cluster, request=dataclasses.replace(cluster.request, gres=gres))
    (line,) = printed(lab, asking, job(lab, partition="a100", node_type="a100", gpus_per_node=2, cpus_per_task=4))
    assert (gpus_in(line), line.split()[-1]) == (2, "cpus=4")


@pytest.mark.parametrize("kind", ["a100", "v100"])
def test_in_a_partition_of_several_kinds_a_job_gets_the_one_it_asked_for(lab: Lab, cluster: Cluster, kind: str) -> None:
    number = lab.submit(script(cluster, job(lab, node_type=kind, gpus_per_node=3, memory_gib=2)))
    node = lab.finish(number)["NodeList"]
    assert kind in lab.run("scontrol", "show", "node", node)
    assert gpus_in((lab.jobs / f"{number}.out").read_text()) == 3


def test_a_job_on_two_nodes_starts_its_command_once_on_each(lab: Lab, cluster: Cluster) -> None:
    lines = printed(lab, cluster, job(lab, nodes=2, partition="whole", cpus_per_task=8))
    names = [line.split()[1] for line in lines]
    assert len(set(names)) == 2
    assert [line.split(maxsplit=2)[2] for line in lines] == ["gpus=0,1,2,3 cpus=8"] * 2


def test_words_and_paths_survive_blanks_quotes_line_breaks_and_variables(lab: Lab, cluster: Cluster) -> None:
    words = ("a b", "it's", '"quoted"', "two\nlines", "$HOME `id` \\n", "*", "")
    folder = lab.jobs / 'it\'s "a" #1 run; 100 euro'
    folder.mkdir()
    command = ("python3", "-c", "import sys; print(sys.argv[1:])", *words)
    number = lab.submit(script(cluster, job(lab, name="it's my run #1", command=command, output=str(folder / "o %j"))))
    assert lab.finish(number)["JobName"] == "it's my run #1"
    assert (folder / f"o {number}").read_text() == f"{list(words)!r}\n"


def test_the_exit_status_of_the_command_is_that_of_the_job(lab: Lab, cluster: Cluster) -> None:
    ended = lab.finish(lab.submit(script(cluster, job(lab, command=("sh", "-c", "exit 7")))))
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "7:0")
