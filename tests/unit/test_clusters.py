"""Profiles of clusters: what the shipped ones say, and how a user's own are found and checked."""

from __future__ import annotations

import dataclasses
import datetime
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterlm.cluster import (
    Cluster,
    find_cluster,
    known_clusters,
    read_cluster,
    readable_clusters,
    recognise,
    shipped_clusters,
)
from clusterlm.cluster.check import TABLES, checked, contradictions, lines_of
from clusterlm.errors import UsageError

NAMES = sorted(shipped_clusters())
RETIRED = {"puhti", "mahti"}
ASKED_FOR = {
    *("roihu", "lumi", "snellius", "vsc5", "musica", "leonardo", "marenostrum5", "karolina", "jupiter", "clariden"),
    *("perlmutter", "soundbendor", "puhti", "mahti", "laptop", "generic"),
}

MINE = """\
title = "Ours"
source = "manual"

[sources.manual]
title = "Our manual"
date = "2026-11"

[nodes.a100]
source = "manual"
gpu = "a100-40"
gpus = 4

[partitions.gpu]
source = "manual"
nodes = ["a100"]
limit = "2-00:00:00"

[request]
source = "manual"

[access]
source = "manual"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the user's own profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "clusterlm" / "clusters"
    folder.mkdir(parents=True)
    yield folder


def refusal_of(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        read_cluster(path)
    return str(refusal.value)


# ------------------------------------------------------------------------------------------------ all shipped profiles


def test_every_site_that_was_asked_for_has_a_profile() -> None:
    assert set(NAMES) >= ASKED_FOR


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_profile_passes_the_checks_of_a_users_own(name: str) -> None:
    path = shipped_clusters()[name]
    text = path.read_text()
    assert checked(path, text, tomllib.loads(text), NAMES) == find_cluster(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_has_a_source_with_a_date_that_is_not_in_the_future(name: str) -> None:
    cluster = find_cluster(name)
    assert not list(contradictions(cluster, NAMES))  # every table names one that is there
    for source in cluster.sources.values():
        assert re.fullmatch(r"20\d\d-(0\d|1[0-2])(-[0-3]\d)?", source.date), source
        assert source.date[:7] <= datetime.date.today().isoformat()[:7], source


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_used(name: str) -> None:
    text = shipped_clusters()[name].read_text()
    for key in find_cluster(name).sources:
        assert re.search(rf'= "{re.escape(key)}"', text), key


def test_a_shipped_profile_is_read_without_pydantic() -> None:
    program = (
        "import sys; from clusterlm.cluster import find_cluster; find_cluster('lumi'); print('pydantic' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


# ------------------------------------------------------------------------------------------- what the documents say


def test_lumi_counts_gcds_and_bills_half_a_gpu_hour_for_each() -> None:
    lumi = find_cluster("lumi")
    node = lumi.nodes["mi250x"]
    assert (node.gpus, node.unit, node.count) == (8, "GCD", 2978)
    assert node.billing_units_per_gpu_hour == 0.5
    assert node.network_gb_per_second == 4 * 200 / 8  # four endpoints of 200 Gbit/s
    standard, small, dev = (lumi.partitions[name] for name in ("standard-g", "small-g", "dev-g"))
    assert (standard.whole_nodes, standard.max_nodes, standard.limit_seconds) == (True, 1024, 2 * 86400)
    assert (small.whole_nodes, small.max_nodes, small.limit_seconds) == (False, 4, 3 * 86400)
    assert (dev.max_nodes, dev.max_running, dev.max_submitted) == (32, 1, 2)
    assert lumi.storage["scratch"].quota_files == 2_000_000
    assert lumi.storage["scratch"].purge_days == 90


def test_vsc5_is_asked_with_partition_and_qos_of_one_name() -> None:
    vsc5 = find_cluster("vsc5")
    assert vsc5.partitions["zen3_0512_a100x2"].partition is None  # the table's own name
    assert vsc5.partitions["zen3_0512_a100x2"].qos == "zen3_0512_a100x2"
    assert vsc5.request.gres == "untyped"  # --gres=gpu:2
    node = vsc5.nodes["a100"]
    assert (node.gpus, node.count, node.cpus, node.gpu) == (2, 60, 256, "a100-40")


def test_roihu_is_asked_with_the_type_in_lower_case_and_bills_200_units() -> None:
    roihu = find_cluster("roihu")
    node = roihu.nodes["gh200"]
    assert (roihu.request.gres, node.gres_type, node.architecture) == ("typed", "gh200", "aarch64")
    assert node.billing_units_per_gpu_hour == 200
    assert roihu.partitions["gpumedium"].max_gpus == 4
    large = roihu.partitions["gpularge"]
    assert (large.min_gpus, large.max_nodes) == (4, 10)
    assert "scalability test" in (large.rule or "")
    assert (roihu.storage["home"].quota_gib, roihu.storage["home"].quota_files) == (15, 150_000)
    assert roihu.storage["scratch"].purge_days == 180
    assert not roihu.request.memory


def test_snellius_refuses_parts_of_several_nodes_and_lets_short_jobs_pass() -> None:
    snellius = find_cluster("snellius")
    assert not snellius.request.partial_nodes
    assert snellius.request.short_job_hours == 1
    assert snellius.nodes["a100"].billing_units_per_gpu_hour == 128
    assert snellius.nodes["a100"].host_memory_gib == 457  # as EESSI measured it, not the 480 of the table
    assert {part.limit_seconds for part in snellius.partitions.values()} == {120 * 3600}


def test_marenostrum_is_offline_and_lets_only_the_qos_be_chosen() -> None:
    marenostrum = find_cluster("marenostrum5")
    assert not marenostrum.request.memory
    assert marenostrum.access.internet is False
    for partition in marenostrum.partitions.values():
        assert (partition.partition, bool(partition.qos)) == ("", True)


def test_soundbendors_gpus_are_chosen_by_the_name_of_the_node() -> None:
    soundbendor = find_cluster("soundbendor")
    t4, rtx6000 = soundbendor.nodes["t4"], soundbendor.nodes["rtx6000"]
    assert (t4.nodelist, t4.gpus) == ("cn-m-1", 6)
    assert (rtx6000.nodelist, rtx6000.gpus) == ("cn-m-2", 2)
    assert soundbendor.request.account_name == "soundbendor"
    assert soundbendor.partitions["soundbendor"].limit is None  # no document says it


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_cscs_retired_clusters_say_what_follows_them(name: str) -> None:
    cluster = find_cluster(name)
    assert (cluster.status, cluster.successor) == ("retired", "roihu")
    assert cluster.until == {"puhti": "2026-07-31", "mahti": "2026-08-31"}[name]


def test_perlmutters_gpus_are_chosen_by_a_constraint() -> None:
    nodes = find_cluster("perlmutter").nodes
    assert {node.constraint for node in nodes.values()} == {"gpu", "gpu&hbm80g"}


def test_what_was_not_seen_in_a_source_is_not_passed_off_as_known() -> None:
    assert "billing_units_per_gpu_hour" in find_cluster("snellius").nodes["h100"].unverified
    assert find_cluster("jupiter").partitions["booster"].limit is None


# ------------------------------------------------------------------------------------------------ finding


def test_a_users_own_profile_goes_before_the_shipped_one(own: Path) -> None:
    (own / "lumi.toml").write_text(MINE)
    assert find_cluster("lumi").title == "Ours"
    assert known_clusters()["lumi"] == own / "lumi.toml"


def test_a_profile_beside_slurm_conf_goes_before_the_shipped_one_and_after_the_users_own(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = tmp_path / "etc" / "clusterlm"
    sites.mkdir(parents=True)
    for name in ("lumi", "here"):
        (sites / f"{name}.toml").write_text(MINE.replace("Ours", "The site's"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "etc" / "slurm.conf"))
    assert [find_cluster(name).title for name in ("lumi", "here")] == ["The site's"] * 2
    (own / "lumi.toml").write_text(MINE)
    assert find_cluster("lumi").title == "Ours"


def test_without_xdg_config_home_own_profiles_are_below_dot_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".config" / "clusterlm" / "clusters"
    folder.mkdir(parents=True)
    (folder / "ours.toml").write_text(MINE)
    assert find_cluster("ours").name == "ours"


def test_a_name_with_a_slash_or_toml_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.toml").write_text(MINE)
    assert find_cluster(str(tmp_path / "here.toml")).name == "here"
    monkeypatch.chdir(tmp_path)
    assert find_cluster("here.toml").title == "Ours"
    assert find_cluster("./here.toml").title == "Ours"


def test_capital_letters_in_a_name_do_not_matter() -> None:
    assert find_cluster("LUMI").name == "lumi"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as refusal:
        find_cluster("snelius")
    assert refusal.value.where == "--on"
    assert "did you mean 'snellius'?" in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.toml: there is no such cluster file"):
        find_cluster(str(tmp_path / "missing.toml"))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        find_cluster(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("cluster_name", "host", "name"),
    [
        ("lumi", "anything", "lumi"),
        ("LUMI", "anything", "lumi"),
        (None, "mahti-login12.mahti.csc.fi", "mahti"),
        (None, "login02-ext.leonardo.cineca.it", "leonardo"),
        ("snellius", "int4", "snellius"),
        (None, "gcn12", "snellius"),
        (None, "my-laptop", None),
        ("unheard-of", "my-laptop", None),
        (None, "", None),
    ],
)
def test_a_cluster_is_recognised_by_slurms_name_for_it_else_by_its_hosts(
    cluster_name: str | None, host: str, name: str | None
) -> None:
    found = recognise(tuple(readable_clusters()[0].values()), cluster_name, host)
    assert (found.name if found else None) == name


def test_what_fits_two_profiles_is_not_recognised(own: Path) -> None:
    for name in ("one", "two"):
        (own / f"{name}.toml").write_text(MINE + 'cluster_names = ["ours*"]\n')
    assert recognise(tuple(readable_clusters()[0].values()), "ours", "node1") is None


def test_of_two_that_fit_the_users_own_is_recognised(own: Path) -> None:
    (own / "mine.toml").write_text(MINE + 'cluster_names = ["lumi"]\n')
    found = recognise(tuple(readable_clusters()[0].values()), "lumi", "node1")
    assert found is not None and found.name == "mine"


def test_a_broken_file_hides_no_other(own: Path) -> None:
    (own / "broken.toml").write_text("title = ")
    (own / "half.toml").write_text(MINE.replace("[nodes", "[knots"))
    (own / "ours.toml").write_text(MINE)
    clusters, broken = readable_clusters()
    assert {"ours", "lumi"} <= set(clusters) and not {"broken", "half"} & set(clusters)
    assert [problem.where for problem in broken] == [str(own / "broken.toml"), str(own / "half.toml")]


# ------------------------------------------------------------------------------------------------ checking


def test_a_sound_file_of_a_user_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(MINE)
    cluster = read_cluster(path)
    assert isinstance(cluster, Cluster)
    assert cluster.partitions["gpu"].limit_seconds == 2 * 86400
    assert cluster.partitions["gpu"].nodes == ("a100",)


def test_all_mistakes_are_told_at_once_each_with_its_line_and_the_right_name(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    text = MINE.replace("gpus = 4", "gpus = 'four'\ncoers = 64").replace('nodes = ["a100"]', "nodes = 'a100'")
    text = text.replace('[access]\nsource = "manual"', '[access]\nsource = "manual"\ninternet = "yes"')
    text = text.replace('title = "Ours"\n', "")
    assert refusal_of(path, text).splitlines() == [
        f"{path}: title: is missing",
        f"{path}: line 10: nodes.a100.gpus: 'four' is not a whole number",
        f"{path}: line 11: nodes.a100.coers: there is no such field (did you mean 'cores'?)",
        f"{path}: line 15: partitions.gpu.nodes: 'a100' is not a list",
        f"{path}: line 23: access.internet: 'yes' is not true or false",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('nodes = ["a100"]', 'nodes = ["a10"]'), "line 15: partitions.gpu.nodes: there is no node type 'a10'"),
        (('gpu = "a100-40"', 'gpu = "a100-41"'), "line 10: nodes.a100.gpu: no GPU is called 'a100-41'"),
        (
            ('[request]\nsource = "manual"', '[request]\nsource = "manul"'),
            "line 19: request.source: there is no source",
        ),
        (("gpus = 4", 'gpus = 4\nunverified = ["cors"]'), "line 12: nodes.a100.unverified: there is no field 'cors'"),
        (("gpus = 4", 'gpus = 4\nunverified = ["cores"]'), "'cores' is not set in this table"),
        (("gpus = 4", 'gpus = 4\nother_sources = { gpus = "x" }'), "nodes.a100.other_sources.gpus: there is no source"),
        (
            ('limit = "2-00:00:00"', 'limit = "2 days"'),
            "line 16: partitions.gpu.limit: '2 days' is not a time of Slurm",
        ),
        (
            ('limit = "2-00:00:00"', "min_gpus = 8\nmax_gpus = 4"),
            "partitions.gpu.max_gpus: 4 is less than min_gpus = 8",
        ),
        (('limit = "2-00:00:00"', "min_nodes = 2\nmax_nodes = 1"), "max_nodes: 1 is less than min_nodes = 2"),
        (('[request]\nsource = "manual"', '[request]\nsource = "manual"\ngres = "typed"'), "nodes.a100.gres_type"),
        (
            ('[request]\nsource = "manual"', '[request]\nsource = "manual"\ngres = "type"'),
            "request.gres: 'type' is none",
        ),
        (('title = "Ours"', 'title = "Ours"\nstatus = "retired"'), "line 2: status: a retired cluster needs"),
        (('title = "Ours"', 'title = "Ours"\nsuccessor = "rohiu"'), "successor: no cluster is called 'rohiu'"),
        (("gpus = 4", "gpus = 0"), "nodes.a100.gpus: a node type needs at least one GPU"),
        (("gpus = 4", "gpus = 4\nbilling_units_per_gpu_hour = 2"), "needs a table [billing]"),
        (('date = "2026-11"', 'date = "last year"'), "sources.manual.date: 'last year' is not"),
        (('title = "Ours"', 'title = "Ours"\nname = "other"'), "name: a profile is called as its file is"),
    ],
)
def test_what_does_not_go_together_is_told_with_its_line(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert change[0] in MINE
    assert told in refusal_of(tmp_path / "my.toml", MINE.replace(*change))


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    told = refusal_of(tmp_path / "my.toml", MINE.replace("gpus = 4", "gpus = "))
    assert "this is not TOML" in told
    assert "line 11" in told


def test_a_date_without_quotes_is_a_date_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(MINE.replace('date = "2026-11"', "date = 2026-11-02"))
    assert read_cluster(path).sources["manual"].date == "2026-11-02"


def test_lines_are_found_under_dotted_and_quoted_keys() -> None:
    text = 'a = 1\n\n[nodes."big one"]\ngpus = 4\n[ request ]\n  memory.each = 2\n'
    assert lines_of(text) == {
        ("a",): 1,
        ("nodes", "big one"): 3,
        ("nodes", "big one", "gpus"): 4,
        ("request",): 5,
        ("request", "memory", "each"): 6,
    }


def test_every_field_is_explained_in_the_reference() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "cluster-file.md").read_text()
    for kind in (Cluster, *TABLES.values()):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text or f"`[{field.name}" in text, f"{kind.__name__}.{field.name}"


def test_the_smallest_file_of_the_guide_is_sound(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "clusters.md").read_text()
    path = tmp_path / "smallest.toml"
    path.write_text(guide.split("```toml\n")[1].split("```")[0])
    assert read_cluster(path).nodes["a100"].gpus == 8


def test_the_guide_names_every_shipped_cluster() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "clusters.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in guide] == []
