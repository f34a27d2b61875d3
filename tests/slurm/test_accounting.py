"""What a Slurm that keeps accounts says besides: limits of QoS, weights, the user's account."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterlm.cluster import Cluster, read_cluster
from clusterlm.slurm import client
from clusterlm.slurm.job import Job
from clusterlm.slurm.observation import observe
from clusterlm.slurm.script import script
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab

pytestmark = pytest.mark.slow  # the database takes 5 to 15 seconds to start


@pytest.fixture
def profile(accounted: Lab, tmp_path: Path) -> Path:
    path = tmp_path / "here.toml"
    done = clusterlm("clusters", "probe", "-o", path)
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture
def cluster(profile: Path) -> Cluster:
    return read_cluster(profile)


def test_the_source_names_both_commands(cluster: Cluster) -> None:
    assert cluster.sources["probe"].title.startswith("scontrol and sacctmgr of lab")


def test_the_limits_of_a_partitions_qos_are_those_of_its_jobs(cluster: Cluster) -> None:
    # capped: MaxWall=1:00:00 MaxTRESPerUser=gres/gpu=3 MaxJobsPerUser=2 MaxSubmitJobsPerUser=5
    low = cluster.partitions["low"]
    assert (low.limit, low.max_gpus, low.max_running, low.max_submitted) == ("01:00:00", 3, 2, 5)
    assert low.qos is None, "the QoS of a partition need not be named"


def test_a_qos_that_a_partition_insists_on_is_named(cluster: Cluster) -> None:
    high = cluster.partitions["high"]
    assert (high.qos, high.partition) == ("high", None)


def test_weights_make_the_price_of_a_gpu_with_its_share_of_a_node(cluster: Cluster) -> None:
    # per GPU: 2 of 8 CPUs x 1 + 4000 MiB x 0.256 per GiB + 100
    assert cluster.nodes["a100"].billing_units_per_gpu_hour == pytest.approx(2 + 4000 / 1024 * 0.256 + 100, abs=1e-3)
    assert cluster.billing is not None
    assert cluster.billing.unverified == ("unit",)


def test_the_default_account_is_in_the_profile_and_in_the_script(accounted: Lab, cluster: Cluster) -> None:
    assert cluster.request.account_name == "proj"
    job = Job(
        name="paid",
        partition="high",
        node_type="v100",
        nodes=1,
        gpus_per_node=1,
        seconds=60,
        command=("true",),
        output=str(accounted.jobs / "%j.out"),
    )
    text = script(cluster, job)
    assert "#SBATCH --account=proj\n" in text
    assert "#SBATCH --qos=high\n" in text
    ended = accounted.finish(accounted.submit(text))
    assert (ended["JobState"], ended["Account"], ended["QOS"]) == ("COMPLETED", "proj", "high")


def test_mistakes_about_qos_price_and_account_are_told(profile: Path) -> None:
    text = profile.read_text().replace("max_gpus = 3\n", "").replace('qos = "high"\n', "")
    text = text.replace('account_name = "proj"', 'account_name = "older"')
    profile.write_text(text.replace("billing_units_per_gpu_hour = 103", "billing_units_per_gpu_hour = 99"))
    done = clusterlm("clusters", "probe", profile)
    assert done.exit_code == 3
    rows = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert rows == [
        "nodes.a100.billing_units_per_gpu_hour",
        "nodes.v100.billing_units_per_gpu_hour",
        "partitions.high.qos",
        "partitions.low.max_gpus",
        "request.account_name",
    ]


def test_a_user_without_an_account_is_told_to_need_one(accounted: Lab) -> None:
    assert client.associations("nobody", observe().cluster_name) == ()
    assert client.default_account("nobody") is None
