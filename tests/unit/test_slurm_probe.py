"""Profiles of clusters that the lab cannot be: one type of two sizes, QoS to choose from, slices, no GPUs at all."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterlm.cluster import read_cluster, shipped_clusters
from clusterlm.cluster.files import build
from clusterlm.errors import SlurmError
from clusterlm.slurm.compare import differences
from clusterlm.slurm.observation import Observation
from clusterlm.slurm.probe import probe
from clusterlm.slurm.profile_text import profile_text
from clusterlm.slurm.values import Association, GpuGres, Qos, SlurmNode, SlurmPartition


def node(name: str, gres_type: str | None = "a100", count: int = 4, **changes: Any) -> SlurmNode:
    plain: dict[str, Any] = {
        "name": name,
        "gpus": (GpuGres(gres_type, count),),
        "architecture": "x86_64",
        "cores": 64,
        "cpus": 128,
        "memory_mib": 256_000,
        "features": frozenset({"gpu"}),
        "partitions": ("gpu",),
    }
    return SlurmNode(**plain | changes)


def part(name: str = "gpu", **changes: Any) -> SlurmPartition:
    plain: dict[str, Any] = {
        "name": name,
        "limit": "2-00:00:00",
        "min_nodes": 1,
        "max_nodes": None,
        "whole_nodes": False,
        "qos": None,
        "allowed_qos": (),
        "allowed_accounts": (),
        "billing_weights": {},
        "usable": True,
    }
    return SlurmPartition(**plain | changes)


def seen(*nodes: SlurmNode, partitions: tuple[SlurmPartition, ...] = (part(),), **changes: Any) -> Observation:
    plain: dict[str, Any] = {
        "cluster_name": "Ours",
        "version": "24.05.4",
        "date": "2026-11-21",
        "user": "me",
        "always_whole_nodes": False,
        "highest_weight_counts": False,
        "accounts_enforced": False,
    }
    return Observation(nodes=nodes, partitions=partitions, **plain | changes)


def qos(name: str, **changes: Any) -> Qos:
    plain: dict[str, Any] = {"limit": None, "max_running": None, "max_submitted": None}
    plain |= {tres: {} for tres in ("most_of_user", "most_of_job", "least_of_job", "most_of_all")}
    return Qos(name=name, **plain | changes)


def test_cards_of_one_name_and_two_sizes_are_two_types_that_a_constraint_selects() -> None:
    # as Perlmutter: 40 and 80 GB under one type in one partition
    small = [node(f"n{i}", features=frozenset({"gpu", "hbm40g"})) for i in range(3)]
    large = [node(f"m{i}", features=frozenset({"gpu", "hbm80g"})) for i in range(2)]
    nodes = probe(seen(*small, *large)).cluster.nodes
    assert {key: (node.gpu, node.count, node.constraint) for key, node in nodes.items()} == {
        "a100-40": ("a100-40", 3, "hbm40g"),
        "a100-80": ("a100-80", 2, "hbm80g"),
    }


def test_nodes_that_nothing_tells_apart_are_pointed_out() -> None:
    probed = probe(seen(node("n1"), node("m1", count=8)))
    assert set(probed.cluster.nodes) == {"a100-40-x4", "a100-40-x8"}
    assert any("no feature tells them from a100-40-x8" in note for note in probed.notes)


def test_hardware_threads_are_counted_beside_the_cores() -> None:
    only = probe(seen(node("n1"))).cluster.nodes["a100"]
    assert (only.cores, only.cpus, only.host_memory_gib) == (64, 128, 250)


def test_gpus_without_a_type_are_asked_for_without_one() -> None:
    probed = probe(seen(node("n1", None)), gpu_kinds={"gpu": "a6000"})
    assert probed.cluster.request.gres == "untyped"
    assert (probed.cluster.nodes["a6000"].gpu, probed.cluster.nodes["a6000"].gres_type) == ("a6000", None)


def test_slices_of_gpus_are_left_out_and_said_to_be() -> None:
    sliced = node("n2", "a100_1g.5gb", 28)
    probed = probe(seen(node("n1"), sliced))
    assert list(probed.cluster.nodes) == ["a100"]
    assert "slices of GPUs are left out: a100_1g.5gb" in probed.notes


def test_where_a_job_must_name_a_qos_each_is_a_way_to_ask() -> None:
    # as VSC-5: the partition insists on a QoS, of which the user has two
    partitions = (part("zen3", allowed_qos=("zen3", "zen3_devel", "zen3_others")),)
    mine = (Association("me", None, ("zen3", "zen3_devel"), None),)
    limits = (qos("zen3"), qos("zen3_devel", limit="10:00", most_of_job={"node": 2}))
    cluster = probe(
        seen(node("n1", partitions=("zen3",)), partitions=partitions, qos=limits, associations=mine)
    ).cluster
    assert {key: (p.partition, p.qos, p.limit, p.max_nodes) for key, p in cluster.partitions.items()} == {
        "zen3": (None, "zen3", "2-00:00:00", None),
        "zen3_devel": ("zen3", "zen3_devel", "10:00", 2),
    }
    assert cluster.partitions["zen3_devel"].purpose == "test"


def test_partitions_for_other_accounts_are_left_out_and_said_to_be() -> None:
    mine = (Association("mine", None, ("normal",), None),)
    partitions = (part(), part("theirs", allowed_accounts=("theirs",)), part("ours", allowed_accounts=("mine", "x")))
    everywhere = node("n1", partitions=("gpu", "theirs", "ours"))
    probed = probe(seen(everywhere, partitions=partitions, associations=mine))
    assert {key: p.rule for key, p in probed.cluster.partitions.items()} == {
        "gpu": None,
        "ours": "only for accounts mine, x",
    }
    assert "partitions for other accounts than yours are left out: theirs" in probed.notes


def test_the_highest_weight_counts_where_the_site_says_so() -> None:
    weighed = (part(billing_weights={"cpu": 1.0, "gres/gpu": 30.0}),)  # 32 CPUs and 1 GPU make a quarter of a node
    assert probe(seen(node("n1"), partitions=weighed)).cluster.nodes["a100"].billing_units_per_gpu_hour == 62
    highest = seen(node("n1"), partitions=weighed, highest_weight_counts=True)
    assert probe(highest).cluster.nodes["a100"].billing_units_per_gpu_hour == 32


def test_a_cluster_without_gpus_has_no_profile() -> None:
    with pytest.raises(SlurmError, match="no node of Ours has GPUs"):
        probe(seen(node("n1", count=4, gpus=())))


def test_an_account_is_needed_where_it_is_enforced_and_the_user_has_no_default() -> None:
    assert probe(seen(node("n1"), accounts_enforced=True)).cluster.request.account
    assert not probe(seen(node("n1"), accounts_enforced=True, default_account="p1")).cluster.request.account


def test_accounting_that_does_not_answer_is_said_and_the_rest_is_there() -> None:
    probed = probe(seen(node("n1"), silent="Slurm's accounting does not answer"))
    assert probed.notes[-1] == "limits of QoS and accounts are missing: Slurm's accounting does not answer"


def test_two_sizes_of_a_profile_that_slurm_does_not_tell_apart_differ_in_nothing() -> None:
    probed = probe(seen(node("n1"), node("n2"))).cluster
    a100 = probed.nodes["a100"]
    two = {
        "a100-40": dataclasses.replace(a100, gpu="a100-40", count=1),
        "a100-80": dataclasses.replace(a100, gpu="a100-80", count=1),
    }
    both = {"gpu": dataclasses.replace(probed.partitions["gpu"], nodes=tuple(two))}
    assert differences(dataclasses.replace(probed, nodes=two, partitions=both), probed) == []


# --------------------------------------------------------------------------------------------------------- as a file


@pytest.mark.parametrize("name", sorted(shipped_clusters()))
def test_every_shipped_profile_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    cluster = read_cluster(shipped_clusters()[name])
    path = tmp_path / f"{name}.toml"
    path.write_text(profile_text(cluster), encoding="utf-8")
    assert read_cluster(path) == cluster


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(alphabet="ab.\"' #=\x7f\n", min_size=1))
def test_any_text_survives_being_written_and_read(text: str, key: str) -> None:
    plain = probe(seen(node("n1"))).cluster
    odd = dataclasses.replace(
        plain, title=text, notes=(text, text), nodes={key: plain.nodes["a100"]}, sources={key: plain.sources["probe"]}
    )
    written = tomllib.loads(profile_text(odd, [text]))
    assert build("ours", written) == odd
