"""What a plan for a probed cluster asks for is taken by that cluster's Slurm, and runs to its end."""

from __future__ import annotations

import dataclasses

import pytest

from clusterlm.cluster import Cluster
from clusterlm.model.find import find_model
from clusterlm.planning.candidates import Search
from clusterlm.planning.planner import plan
from clusterlm.planning.wishes import Wishes
from clusterlm.runs.request import job_of
from clusterlm.slurm.observation import observe
from clusterlm.slurm.probe import probe
from clusterlm.slurm.script import script
from tests.slurm.lab import Lab
from tests.slurm.test_script import WHO


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    """Its RAM left open: the nodes of the laboratory have less than a process with torch takes."""
    found = probe(observe(), "here").cluster
    open_ram = {"host_memory_gib": None, "host_memory_per_gpu_gib": None}
    nodes = {name: dataclasses.replace(node, **open_ram) for name, node in found.nodes.items()}  # type: ignore[arg-type]
    return dataclasses.replace(found, nodes=nodes)


@pytest.mark.parametrize(
    ("model", "wishes"),
    [
        ("gpt2", Wishes()),
        ("gpt2", Wishes(gpu="v100", prefer="fastest")),
        ("meta-llama/Llama-3.1-8B", Wishes(method="lora", nodes=2, gpu="v100")),
        ("mistralai/Mistral-7B-v0.1", Wishes(method="full", prefer="fastest")),
        ("mistralai/Mixtral-8x7B-v0.1", Wishes(task="embed")),
    ],
)
def test_the_request_of_a_plan_starts_a_job_with_its_gpus(
    lab: Lab, cluster: Cluster, model: str, wishes: Wishes
) -> None:
    best = plan(Search(find_model(model)), cluster, wishes).best
    assert best is not None
    output = str(lab.jobs / "%j.out")
    job = dataclasses.replace(job_of(best, model), command=WHO, output=output)
    number = lab.submit(script(cluster, job))
    ended = lab.finish(number)
    lines = (lab.jobs / f"{number}.out").read_text().splitlines()
    assert ended["JobState"] == "COMPLETED", lines
    seen = [line.split("gpus=")[1].split()[0].split(",") for line in lines]
    assert [len(gpus) for gpus in seen] == [best.case.strategy.gpus // best.nodes] * best.nodes
