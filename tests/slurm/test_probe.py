"""`clusterlm clusters probe` on a real Slurm: two nodes of four V100, one of four A100, no accounting."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from clusterlm.cluster import read_cluster
from clusterlm.slurm.observation import observe
from clusterlm.slurm.probe import probe
from clusterlm.slurm.profile_text import profile_text
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab

KINDS = ("--gpu-kind", "a100=a100-80", "--gpu-kind", "v100=v100-32")
# of the lab: RealMemory=16000 MiB is 15.6 GiB, 8 CPUs without hardware threads


@pytest.fixture
def profile(lab: Lab, tmp_path: Path) -> Path:
    """The file that the command writes."""
    path = tmp_path / "here.toml"
    done = clusterlm("clusters", "probe", "--output", path, *KINDS)
    assert done.exit_code == 0, done.output
    return path


def findings(path: Path) -> set[tuple[str, str, str]]:
    done = clusterlm("clusters", "probe", path, "--json", *KINDS)
    found = json.loads(done.stdout)["differences"]
    assert done.exit_code == (3 if found else 0)
    return {(finding["field"], finding["profile"], finding["slurm"]) for finding in found}


def changed(path: Path, *changes: tuple[str, str]) -> Path:
    """The same file with mistakes; its name says nothing."""
    text = path.read_text()
    for right, wrong in changes:
        assert text.count(right) >= 1, right
        text = text.replace(right, wrong, 1)
    path.write_text(text)
    return path


def test_the_profile_says_what_the_nodes_have(profile: Path) -> None:
    nodes = read_cluster(profile).nodes
    assert list(nodes) == ["a100", "v100"]
    assert (nodes["a100"].gpu, nodes["v100"].gpu) == ("a100-80", "v100-32")
    assert [(node.gpus, node.count, node.cores, node.host_memory_gib) for node in nodes.values()] == [
        (4, 1, 8, 15),
        (4, 2, 8, 15),
    ]
    assert [node.gres_type for node in nodes.values()] == ["a100", "v100"]


def test_the_profile_says_what_the_partitions_allow(profile: Path) -> None:
    partitions = read_cluster(profile).partitions
    assert set(partitions) == {"gpu", "high", "low", "short", "a100", "v100", "whole", "debug"}, "closed is down"
    assert partitions["gpu"].nodes == ("a100", "v100")
    assert partitions["v100"].nodes == ("v100",)
    assert (partitions["gpu"].limit, partitions["short"].limit_seconds) == ("1-00:00:00", 120)
    whole = partitions["whole"]
    assert (whole.whole_nodes, whole.min_nodes, whole.max_nodes) == (True, 2, 3)
    assert (partitions["debug"].purpose, partitions["debug"].unverified) == ("test", ("purpose",))
    assert not partitions["gpu"].whole_nodes


def test_the_profile_names_its_source_and_its_date(profile: Path) -> None:
    cluster = read_cluster(profile)
    observed = observe()
    assert cluster.sources["probe"].title == f"scontrol of {observed.cluster_name}, Slurm {observed.version}"
    assert cluster.sources["probe"].date == observed.date
    assert cluster.access.cluster_names == (observed.cluster_name,)


def test_what_is_read_back_is_what_was_built(lab: Lab, tmp_path: Path) -> None:
    built = probe(observe(), "here").cluster
    path = tmp_path / "here.toml"
    path.write_text(profile_text(built, ["a remark\nof two lines"]))
    assert read_cluster(path) == built


def test_the_profile_goes_to_standard_output_and_the_talk_does_not(lab: Lab) -> None:
    done = clusterlm("clusters", "probe")
    assert done.exit_code == 0
    assert tomllib.loads(done.stdout)["nodes"]["v100"]["gpus"] == 4
    assert "fill in" in done.stderr
    assert "access.internet" in done.stderr


def test_a_gpu_of_several_sizes_is_taken_as_the_smallest_and_said_to_be_unsure(lab: Lab) -> None:
    done = clusterlm("clusters", "probe")
    v100 = tomllib.loads(done.stdout)["nodes"]["v100"]
    assert (v100["gpu"], v100["unverified"]) == ("v100-16", ["gpu"])
    assert "'v100' can be v100-16, v100-32; taken as v100-16: --gpu-kind v100=KEY" in done.stderr


def test_a_kind_of_gpu_that_slurm_or_clusterlm_does_not_know_is_refused(lab: Lab) -> None:
    unknown_type = clusterlm("clusters", "probe", "--gpu-kind", "a10=a10g")
    assert unknown_type.exit_code == 2
    assert "Slurm has no GPUs of type 'a10'" in unknown_type.stderr
    unknown_key = clusterlm("clusters", "probe", "--gpu-kind", "a100=a100-800")
    assert unknown_key.exit_code == 2
    assert "did you mean 'a100-80'" in unknown_key.stderr


def test_a_file_is_not_overwritten_without_force(profile: Path) -> None:
    profile.write_text("precious")
    assert clusterlm("clusters", "probe", "-o", profile).exit_code == 2
    assert profile.read_text() == "precious"
    assert clusterlm("clusters", "probe", "-o", profile, "--force").exit_code == 0
    assert read_cluster(profile).nodes["v100"].count == 2


# ---------------------------------------------------------------------------------------------------------- comparing


def test_a_profile_that_is_right_differs_in_nothing(profile: Path) -> None:
    done = clusterlm("clusters", "probe", profile)
    assert (done.exit_code, done.stdout) == (0, "here: nothing differs from what Slurm says\n")
    assert "not compared: access, storage, software" in done.stderr


def test_each_mistake_of_a_profile_is_told_and_nothing_else(profile: Path) -> None:
    changed(
        profile,
        ("gpus = 4", "gpus = 5"),  # of the a100
        ('gres_type = "v100"', 'gres_type = "V100"'),
        ("host_memory_gib = 15", "host_memory_gib = 16"),
        ("count = 2", "count = 3"),
        ('limit = "00:02:00"', 'limit = "00:03:00"'),
        ("max_nodes = 3", "max_nodes = 4"),
        ("whole_nodes = true", "whole_nodes = false"),
        ("[partitions.low]", "[partitions.lower]"),
    )
    assert findings(profile) == {
        ("nodes.a100.gpus", "5", "4"),
        ("nodes.v100.gres_type", "V100", "v100"),
        ("nodes.a100.host_memory_gib", "16", "15 at most"),
        ("nodes.v100.count", "3", "2"),
        ("partitions.short.limit", "00:03:00", "00:02:00"),
        ("partitions.whole.max_nodes", "4", "3"),
        ("partitions.whole.whole_nodes", "no", "yes"),
        ("partitions.lower", "lower", "no partition with GPUs that is up and open to you"),
        ("partitions.low", "none", "nodes a100, v100, up to 1-00:00:00"),
    }


def test_a_profile_may_promise_less_than_slurm_gives(profile: Path) -> None:
    changed(profile, ("host_memory_gib = 15", "host_memory_gib = 10"), ("cores = 8", "cores = 7"))
    assert findings(profile) == set()


def test_another_card_than_slurms_is_told(profile: Path) -> None:
    changed(profile, ('gpu = "a100-80"', 'gpu = "a100-40"'))
    assert findings(profile) == {("nodes.a100.gpu", "a100-40", "a100-80")}


def test_the_profile_of_another_cluster_is_told_to_be_so(lab: Lab) -> None:
    done = clusterlm("clusters", "probe", "lumi")
    assert done.exit_code == 3
    assert "access.cluster_names" in done.stdout
    assert "standard-g" in done.stdout


def test_a_machine_without_slurm_has_nothing_to_compare(lab: Lab) -> None:
    done = clusterlm("clusters", "probe", "laptop")
    assert done.exit_code == 2
    assert "laptop has no Slurm" in done.stderr


def test_a_plan_finds_the_cluster_it_runs_on_by_the_probed_profile(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "clusterlm" / "clusters"
    own.mkdir(parents=True)
    profile.rename(own / "here.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = clusterlm("plan", "meta-llama/Llama-3.2-1B", "--on", "auto", "--gpu", "v100-32", "--json")
    assert done.exit_code == 0, done.output
    assert "v100" in done.stdout
    assert '"here"' in done.stdout
