"""`clusterlm clusters`: the list, and all about one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import clusterlm

OURS = """\
title = "Ours"
site = "Our group"
source = "manual"

[sources.manual]
title = "Our manual"
date = "2026-11"

[nodes.big]
source = "manual"
gpu = "a100-80"
gpus = 8
host_memory_gib = 1000
unverified = ["host_memory_gib"]

[partitions.gpu]
source = "manual"
nodes = ["big"]
limit = "1-12:00:00"

[request]
source = "manual"

[access]
source = "manual"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "clusterlm" / "clusters"
    folder.mkdir(parents=True)
    return folder


def shown(name: str) -> str:
    result = clusterlm("clusters", "show", name)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_has_the_gpus_and_ends_with_the_retired_and_what_follows_them() -> None:
    result = clusterlm("clusters", "list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(re.match(r"lumi +CSC.* 8x mi250x ", line) for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["mahti", "puhti"]
    assert all(line.endswith("retired, now roihu") for line in lines[-2:])
    assert max(map(len, lines)) <= 101


def test_a_users_own_cluster_is_marked_in_the_list(own: Path) -> None:
    (own / "ours.toml").write_text(OURS)
    lines = clusterlm("clusters", "list").stdout.splitlines()
    assert [line for line in lines if line.endswith("your own")] == [line for line in lines if line.startswith("ours ")]


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=str)
def test_a_broken_file_is_told_of_at_the_end_and_the_others_are_listed(own: Path, flags: list[str]) -> None:
    (own / "ours.toml").write_text(OURS)
    (own / "broken.toml").write_text("title = ")
    result = clusterlm("clusters", "list", *flags)
    assert result.exit_code == 0
    assert "ours" in result.stdout and "lumi" in result.stdout
    assert "broken.toml" not in result.stdout
    assert result.stderr.splitlines()[-1].startswith(f"left out: {own / 'broken.toml'}: this is not TOML")


def test_the_list_as_json_counts_facts_and_those_unverified(own: Path) -> None:
    (own / "ours.toml").write_text(OURS)
    by_name = {row["name"]: row for row in json.loads(clusterlm("clusters", "list", "--json").stdout)}
    ours = by_name["ours"]
    # title, site; gpu, gpus, memory; nodes, limit
    assert (ours["facts"], ours["unverified"], ours["own"]) == (7, 1, True)
    assert ours["nodes"] == [{"gpu": "a100-80", "gpus": 8, "unit": "GPU"}]
    assert by_name["puhti"]["successor"] == "roihu"


def test_a_cluster_is_shown_with_its_limits_in_words() -> None:
    text = shown("lumi")
    assert re.search(r"standard-g +batch +mi250x +2 days +up to 1,024 whole nodes +200 running, 210 in all", text)
    assert re.search(r"dev-g +test +mi250x +3 h +up to 32 nodes +1 running, 2 in all", text)
    assert "0.5 GPU-hour per GCD and hour" in text
    assert re.search(r"/scratch/\$PROJECT +scratch +46,566 GiB +2,000,000 files +90 days", text)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("roihu", "gpumedium +--partition=gpumedium --account=PROJECT --gres=gpu:gh200:N"),
        ("vsc5", "--partition=zen3_0512_a100x2 --qos=zen3_0512_a100x2 --gres=gpu:N"),
        ("snellius", "--partition=gpu_h100 --gpus-per-node=N"),
        ("marenostrum5", "acc_ehpc +--qos=acc_ehpc --account=PROJECT --gpus-per-node=N"),
        ("soundbendor", "--partition=soundbendor --account=soundbendor --gres=gpu:N"),
        ("soundbendor", "selected with +--nodelist=cn-m-1 +--nodelist=cn-m-2"),
        ("perlmutter", "--constraint=gpu&hbm80g"),
    ],
)
def test_it_is_shown_how_each_site_wants_to_be_asked(name: str, options: str) -> None:
    assert re.search(options, shown(name))


def test_an_unverified_value_has_a_question_mark_and_the_mark_is_explained() -> None:
    text = shown("snellius")
    assert "192 SBU per GPU and hour?" in text
    assert "128 SBU per GPU and hour " in text
    assert '"?" marks what no source that was read confirms' in text
    assert "?" not in shown("soundbendor")


def test_every_source_is_shown_with_its_date_and_what_it_is_for() -> None:
    text = shown("lumi")
    assert "LUMI user guide: Slurm partitions (2026-11-21): partitions, access" in text
    assert "https://docs.lumi-supercomputer.eu/runjobs/lumi_env/billing/" in text


def test_a_retired_cluster_says_so_first() -> None:
    first = shown("puhti").splitlines()[1]
    assert first.startswith(
        "No longer in service. Its last day was 2026-07-31. Its successor: clusterlm clusters show roihu"
    )


def test_a_cluster_as_json_has_the_names_of_its_file() -> None:
    roihu = json.loads(clusterlm("clusters", "show", "roihu", "--json").stdout)
    assert roihu["schema"] == 1
    assert roihu["nodes"]["gh200"]["gres_type"] == "gh200"
    assert roihu["partitions"]["gpularge"]["min_gpus"] == 4
    assert roihu["path"].endswith("roihu.toml")


@pytest.mark.parametrize("name", [row["name"] for row in json.loads(clusterlm("clusters", "list", "--json").stdout)])
def test_no_line_of_any_cluster_is_wider_than_a_window(name: str) -> None:
    wide = [line for line in shown(name).splitlines() if len(line) > 100 and "https://" not in line]
    assert wide == []


def test_a_file_is_shown_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(OURS)
    text = shown(str(path))
    assert "Ours (ours): Our group" in text
    assert "1000 GiB?" in text
    assert re.search(r"gpu +batch +big +36 h +any", text)


def test_an_unknown_name_is_wrong_usage_with_the_nearest_name() -> None:
    result = clusterlm("clusters", "show", "lumo")
    assert result.exit_code == 2
    assert "did you mean 'lumi'?" in result.stderr
    assert result.stdout == ""


def test_a_broken_file_is_refused_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(OURS.replace("gpus = 8", "gpus = 'eight'\ngpu_count = 8"))
    result = clusterlm("clusters", "show", path)
    assert result.exit_code == 2
    assert "line 12: nodes.big.gpus: 'eight' is not a whole number" in result.stderr
    assert "line 13: nodes.big.gpu_count: there is no such field" in result.stderr


@pytest.mark.parametrize("arguments", [["clusters", "list"], ["clusters", "show", "lumi"]])
def test_a_login_node_answers_without_torch_and_without_pydantic(arguments: list[str]) -> None:
    program = f"""
import sys
from clusterlm.cli.main import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert not ended.code, ended.code
print("LOADED", [name for name in ("torch", "transformers", "pydantic") if name in sys.modules])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "LOADED []"
