"""clusterlm plan --on CLUSTER: what is best there, at what time and price, why the others cannot be, and what to do."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from clusterlm.cli.main import main
from clusterlm.cluster import shipped_clusters
from tests.cli.running import clusterlm

GIB = 2**30
WIDTH = 113
"""Columns of a terminal on a login node; what a table may take."""
DOES_NOT_FIT = 3
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "plan-json.md"
LORA_70B = ["meta-llama/Llama-3.1-70B", "--method", "lora"]
FULL_8B = ["meta-llama/Llama-3.1-8B", "--method", "full"]


def planned(*arguments: object, status: int = 0) -> dict[str, Any]:
    result = clusterlm("plan", *arguments, "--json")
    assert result.exit_code == status, result.output
    assert result.stderr == ""
    values = json.loads(result.stdout)
    assert isinstance(values, dict)
    return values


def text(*arguments: object, status: int = 0) -> str:
    result = clusterlm("plan", *arguments)
    assert result.exit_code == status, result.output
    return result.stdout


def part(said: str, title: str) -> list[str]:
    """The lines under a title, up to the next empty one."""
    lines = said.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith(title)]
    end = lines.index("", first) if "" in lines[first:] else len(lines)
    return lines[first:end]


# ---------------------------------------------------------------------------------------------------- what is best
def test_the_headline_has_the_way_the_memory_the_time_and_the_price() -> None:
    first = text(*LORA_70B, "--on", "lumi").splitlines()[0]
    # LUMI's Slurm counts GCDs, eight on a node, of 64 GiB each; half a GPU-hour is billed for one and hour.
    assert re.fullmatch(
        r"Fits: LoRA, (FSDP|ZeRO-3) on .*GCDs?\)?, [\d.]+ of 64\.0 GiB each, about [\d.]+ (min|h)"
        r" for an assumed 10,000,000 tokens, [\d.]+ GCD-hours \([\d.]+ GPU-hours billed\)",
        first,
    ), first


def test_lumi_bills_half_a_gpu_hour_for_a_gcd_and_hour() -> None:
    """LUMI user guide, billing policy: GPU-core-hours x 0.5."""
    plan = planned(*LORA_70B, "--on", "lumi")
    best = plan["best"]
    assert any("half a GPU-hour for each GCD" in note for note in plan["notes"])
    assert best["billing_units"] == pytest.approx(best["gpu_hours"] / 2)
    assert best["gpu_hours"] == pytest.approx(best["allocated_gpus"] * best["duration"]["middle"] / 3600)


def test_snellius_bills_128_sbu_for_an_a100_and_hour() -> None:
    """SURF wiki, Snellius partitions: 128 SBU per GPU and hour of gpu_a100."""
    plan = planned(*FULL_8B, "--on", "snellius", "--gpu", "a100")
    assert plan["best"]["billing_units"] == pytest.approx(128 * plan["best"]["gpu_hours"])
    assert re.search(r"GPU-hours? \([\d,.]+ SBU\)$", plan["headline"])


def test_whole_nodes_are_paid_whole_and_idle_gpus_are_pointed_out() -> None:
    plan = planned(*FULL_8B, "--on", "lumi", "--gpus", 4, "--partition", "standard-g")
    best = plan["best"]
    assert (best["gpus"], best["allocated_gpus"], best["idle_gpus"]) == (4, 8, 4)
    assert best["gpu_hours"] == pytest.approx(8 * best["duration"]["middle"] / 3600)
    said = text(*FULL_8B, "--on", "lumi", "--gpus", 4, "--partition", "standard-g")
    assert "4 GCDs of the 8 that are paid for stay idle: standard-g gives whole nodes of 8" in said


def test_what_the_users_own_choices_cost_is_said() -> None:
    command = [*FULL_8B, "--on", "lumi", "--gpus", 4, "--partition", "standard-g"]
    plan, free = planned(*command), planned(*FULL_8B, "--on", "lumi")
    assert plan["unpinned"]["gpu_hours"] == pytest.approx(free["best"]["gpu_hours"])
    assert plan["best"]["gpu_hours"] > free["best"]["gpu_hours"]
    more = round(100 * (plan["best"]["billing_units"] / free["best"]["billing_units"] - 1))
    assert f"your choices (--partition standard-g, --gpus 4) cost {more} % more GPU-hours; without them: " in text(
        *command
    )
    assert free["unpinned"] is None


def test_the_preference_decides() -> None:
    cheapest, fastest, soonest = (
        planned(*FULL_8B, "--on", "snellius", "--prefer", preference)
        for preference in ("cheapest", "fastest", "soonest")
    )
    assert cheapest["prefer"] == planned(*FULL_8B, "--on", "snellius")["prefer"] == "cheapest"
    comfortable = [one for one in cheapest["candidates"] if not one["tight"]]
    assert cheapest["best"]["billing_units"] <= 1.03 * min(one["billing_units"] for one in comfortable)
    assert fastest["best"]["duration"]["middle"] <= 1.03 * min(one["duration"]["middle"] for one in comfortable)
    assert soonest["best"]["nodes"] == min(one["nodes"] for one in comfortable) == 1


def test_more_work_takes_longer_and_what_was_assumed_is_said() -> None:
    command = ["gpt2", "--method", "full", "--on", "lumi", "--gpus", 1]
    assumed, given = planned(*command), planned(*command, "--dataset-tokens", 5_000_000, "--epochs", 4)
    assert assumed["amount"] == {"tokens": 10_000_000, "records": None, "assumed": True}
    assert given["amount"] == {"tokens": 20_000_000, "records": None, "assumed": False}

    def working(plan: dict[str, Any]) -> float:
        duration = plan["best"]["duration"]
        return float(duration["middle"] - duration["load"])

    assert working(given) == pytest.approx(2 * working(assumed))
    assert "10,000,000 tokens (assumed: --dataset-tokens sets it)" in text(*command)
    said = text(*command, "--dataset-tokens", 5_000_000, "--epochs", 4)
    assert "5,000,000 tokens x 4 epochs = 20,000,000 tokens" in said
    assert "assumed" not in said


def test_prompts_are_counted_in_new_tokens() -> None:
    plan = planned("gpt2", "--on", "laptop", "--records", 300, "--new-tokens", 50)
    assert plan["amount"] == {"tokens": 300 * 50, "records": 300, "assumed": False}


def test_a_job_longer_than_the_partition_allows_becomes_a_chain() -> None:
    """Leonardo's boost_usr_prod ends a job after 24 hours."""
    command = [*FULL_8B, "--on", "leonardo", "--partition", "boost_usr_prod", "--dataset-tokens", 20_000_000_000]
    best = planned(*command, "--gpus", 4)["best"]
    assert best["duration"]["jobs"] > 1
    assert best["duration"]["asked"] <= 24 * 3600
    # What computes in one job fits between its start and its end.
    assert best["duration"]["middle"] <= best["duration"]["jobs"] * 24 * 3600
    said = text(*command, "--gpus", 4)
    assert f"{best['duration']['jobs']} jobs" in part(said, "WAY")[1] and "continues" in said


def test_the_interval_holds_the_middle_and_the_time_asked_for_holds_the_interval() -> None:
    for one in planned(*LORA_70B, "--on", "snellius")["candidates"]:
        duration = one["duration"]
        assert duration["load"] < duration["low"] <= duration["middle"] <= duration["high"]
        assert duration["high"] <= duration["jobs"] * duration["asked"]


# -------------------------------------------------------------------------------------------------------- the table
COMMANDS = [
    [*LORA_70B, "--on", "lumi"],
    [*FULL_8B, "--on", "perlmutter", "--prefer", "soonest"],
    [*FULL_8B, "--on", "lumi", "--gpus", "4", "--partition", "standard-g"],
    ["mistralai/Mixtral-8x7B-v0.1", "--method", "qlora", "--on", "soundbendor"],
    ["meta-llama/Llama-3.1-8B", "--on", "vsc5"],
    ["meta-llama/Llama-3.1-70B", "--engine", "vllm", "--on", "snellius"],
    ["gpt2", "--task", "embed", "--on", "laptop"],
    ["gpt2", "--on", "generic", "--gpu", "t4"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_table_has_the_best_first_and_fits_a_terminal(command: list[str]) -> None:
    plan, table = planned(*command), part(text(*command), "WAY")
    assert max(len(line) for line in table) <= WIDTH
    rows = [line for line in table[1:] if "/" in line]
    assert "  best" in rows[0] and not any("  best" in row for row in rows[1:])
    assert 1 <= len(rows) <= 8 + 2
    assert f"{plan['best']['needed'] / GIB:.3g}" in rows[0]
    if len(rows) < len(plan["candidates"]):
        everything = part(text(*command, "--all"), "WAY")
        assert len(rows) <= len(everything) - 1 <= len(plan["candidates"])


def test_ways_that_differ_in_checkpointing_or_the_partitions_name_are_one_row() -> None:
    rows = part(text(*LORA_70B, "--on", "lumi", "--all"), "WAY")[1:]
    # Eight GCDs can be had in both partitions, 64 in standard-g alone.
    [eight] = [row for row in rows if re.match(r"FSDP +8 ", row)]
    assert "standard-g, small-g" in eight
    [many] = [row for row in rows if re.match(r"FSDP +64 ", row)]
    assert "small-g" not in many


def test_each_type_of_node_that_can_is_in_the_table() -> None:
    table = part(text("meta-llama/Llama-3.1-8B", "--on", "snellius"), "WAY")
    assert any("gpu_a100" in row for row in table) and any("gpu_h100" in row for row in table)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_flags_of_each_way_give_that_way_again(command: list[str]) -> None:
    plan = planned(*command)
    model, cluster = command[0], plan["cluster"]["name"]
    for one in [*plan["candidates"][:3], plan["candidates"][-1]]:
        again = planned(model, "--on", cluster, *shlex.split(one["flags"]))["best"]
        for key in ("strategy", "gpus", "node", "copies", "batch", "accumulation_steps", "needed", "offload"):
            assert again[key] == one[key], key
        assert again["gradient_checkpointing"] == one["gradient_checkpointing"]
        assert again["partition"] == one["partition"]


# ------------------------------------------------------------------------------------------------- memory and time
def test_the_memory_is_that_of_the_same_way_on_the_card_alone() -> None:
    options = ["--gpus", 8, "--strategy", "fsdp", "--batch", 64, "--micro-batch", 1, "--gradient-checkpointing"]
    plan = planned(*FULL_8B, "--on", "mahti", *options)
    alone = planned(*FULL_8B, "--gpu", "a100-40", "--gpus-per-node", 4, *options)
    assert plan["memory"]["phases"] == alone["phases"]
    assert plan["best"]["needed"] == alone["one_gpu"]["needed"]


def test_the_parts_of_a_step_make_up_the_step() -> None:
    step = planned(*LORA_70B, "--on", "lumi")["best"]["step"]
    assert sum(step["parts"].values()) == pytest.approx(step["seconds"])
    assert step["spread"] > 1 and step["basis"]
    said = part(text(*LORA_70B, "--on", "lumi"), "TIME")
    assert any("a second" in line for line in said)
    assert any(step["basis"] in line for line in said)


def test_a_step_trains_its_tokens_in_its_seconds() -> None:
    plan = planned(*LORA_70B, "--on", "lumi")
    step, best = plan["best"]["step"], plan["best"]
    tokens = best["batch"] * best["accumulation_steps"] * best["gpus"] * 2048
    assert tokens / step["seconds"] == pytest.approx(step["tokens_per_second"])
    steps = math.ceil(plan["amount"]["tokens"] / tokens)
    duration = best["duration"]
    assert duration["middle"] == pytest.approx(duration["load"] + steps * step["seconds"])


def test_explain_has_the_formulas_of_the_best() -> None:
    said = text("gpt2", "--on", "laptop", "--explain")
    assert "HOW IT IS COUNTED" in said and "RULE OF THUMB" in said
    assert "vocabulary x hidden" in said


# ------------------------------------------------------------------------------------------------- what cannot be
def test_each_strategy_that_cannot_be_is_one_line_with_its_reason_and_what_can() -> None:
    rows = part(text(*LORA_70B, "--on", "lumi"), "WHAT CANNOT BE")[1:]
    # 70.55 billion parameters of 2 bytes are 131.4 GiB: more than two GCDs of 64 GiB hold, and DDP cuts nothing.
    [ddp] = [row for row in rows if row.startswith("DDP")]
    assert re.search(r"^DDP on 2 to \d+ GCDs: 1[34]\d\.\d of 64\.0 GiB, most of it weights; .* on 4 GCDs fits$", ddp)
    assert any(re.match(r"FSDP on 2 GCDs: .*; FSDP on 4 GCDs fits", row) for row in rows)


def test_a_cut_that_cannot_be_is_named_and_not_contradicted_by_the_best() -> None:
    """70.55 billion parameters of 2 bytes: more than two GCDs hold; eight key/value heads are divided by 2, 4 and 8."""
    rows = part(text("meta-llama/Llama-3.1-70B", "--on", "lumi"), "WHAT CANNOT BE")[1:]
    assert any(re.match(r"pipeline 2, in any number of copies: 7\d\.\d of 64\.0 GiB, ", row) for row in rows)
    [heads] = part(text("meta-llama/Llama-3.1-8B", "--on", "lumi", "--strategy", "tensor"), "WHAT CANNOT BE")[1:]
    assert heads.startswith("tensor 3, 5, 6 or 7: 8 key/value heads cannot be divided by that; tensor 2 ")


def test_a_line_or_two_are_shown_rather_than_counted() -> None:
    """Here nothing fits, for twelve reasons: more than the ten lines that are shown of many."""
    command = ["meta-llama/Llama-3.1-405B", "--method", "full", "--on", "lumi"]
    rows = part(text(*command, status=DOES_NOT_FIT), "WHAT CANNOT BE")
    assert rows == part(text(*command, "--all", status=DOES_NOT_FIT), "WHAT CANNOT BE")


def test_refusals_of_one_kind_are_one_line() -> None:
    """gpt2 has twelve layers and twelve heads."""
    command = ["gpt2", "--engine", "vllm", "--on", "lumi"]
    assert part(text(*command), "WHAT CANNOT BE")[2].startswith("tensor on 128 to 8,192 GCDs: more stages than the 12 ")
    [stages] = part(text("distilgpt2", "--on", "lumi", "--strategy", "pipeline"), "WHAT CANNOT BE")[1:]
    assert stages.startswith("pipeline 7 or 8: more stages than the 6 layers; pipeline 2 "), stages


def test_rows_are_hidden_only_where_that_saves_some() -> None:
    shown = {}
    for gpu in ("a100", "h100"):
        for wishes in (["gpt2"], LORA_70B, FULL_8B):
            command = [*wishes, "--on", "snellius", "--gpu", gpu]
            said = part(text(*command), "WAY")
            shown[" ".join(command)] = (len(said), len(part(text(*command, "--all"), "WAY")), said[-1])
    for command, (lines, all_lines, last) in shown.items():
        hidden = int(last.removesuffix(" more: --all")) if last.endswith(" more: --all") else 0
        assert hidden == 0 or hidden >= 3, command
        assert hidden == 0 or lines - 1 + hidden == all_lines, command
    assert any(last.endswith("--all") for _, _, last in shown.values())


def test_many_gpus_are_counted_with_commas_and_strategies_spelled_as_their_makers_do() -> None:
    said = text("meta-llama/Llama-3.1-8B", "--method", "full", "--on", "lumi", "--strategy", "zero2", "--nodes", 128)
    assert "1,024 x AMD MI250X" in said and "ZeRO-2" in said and "ZERO" not in said


def test_what_fits_nowhere_says_what_comes_nearest_and_what_would() -> None:
    command = ["meta-llama/Llama-3.1-405B", "--method", "full", "--on", "puhti"]
    plan, said = planned(*command, status=DOES_NOT_FIT), text(*command, status=DOES_NOT_FIT)
    first = said.splitlines()[0]
    closest = plan["closest"]
    lacking = (closest["needed"] - closest["available"]) / GIB
    assert first.startswith("Does not fit on puhti: the closest is ") and f"{lacking:.1f} GiB too much" in first
    # Weights, gradients and AdamW of 405.85 billion parameters, 16 bytes each, over puhti's 320 GPUs: 18.9 GiB each.
    assert closest["needed"] > closest["available"] > 30 * GIB
    assert plan["best"] is None and plan["candidates"] == []
    assert "TIME" not in said


@pytest.mark.parametrize(
    "command",
    [
        ["meta-llama/Llama-3.1-70B", "--method", "lora", "--on", "laptop"],
        ["bigscience/bloom", "--on", "vsc5"],
        ["meta-llama/Llama-3.1-8B", "--method", "lora", "--on", "laptop"],
    ],
    ids=" ".join,
)
def test_each_way_out_fits_when_its_flags_are_added(command: list[str]) -> None:
    plan = planned(*command, status=DOES_NOT_FIT)
    for remedy in plan["remedies"]:
        again = planned(*command, *shlex.split(remedy["flags"]))
        assert remedy["candidate"]["needed"] in [one["needed"] for one in again["candidates"]]
    if plan["remedies"]:
        assert f"it would fit with {plan['remedies'][0]['words']}" in plan["headline"]


def test_where_the_users_own_choices_stand_in_the_way_they_are_named() -> None:
    """Full fine-tuning of 70.55 billion parameters has 16 bytes of states for each: 1,051 GiB, on 8 GCDs 131 each."""
    first = text("meta-llama/Llama-3.1-70B", "--method", "full", "--on", "lumi", "--gpus", 8, status=DOES_NOT_FIT)
    assert re.search(r"without --gpus 8 it fits: .* on \d+ nodes \(\d+ GCDs\), [\d.]+ GiB$", first.splitlines()[0])


# -------------------------------------------------------------------------------------------------- every cluster
@pytest.mark.parametrize("cluster", sorted(shipped_clusters()))
def test_gpt2_runs_on_every_cluster(cluster: str) -> None:
    options = ["--gpu", "v100-32"] if cluster == "generic" else []
    said = text("gpt2", "--on", cluster, *options)
    assert said.startswith("Fits: generating, ")
    assert max(len(line) for line in part(said, "WAY")) <= WIDTH


OWN = """
title = "Our own"
source = "me"
[sources.me]
title = "I measured it"
date = "2026-01-01"
[nodes.big]
source = "me"
gpu = "h200"
gpus = 2
[partitions.only]
source = "me"
nodes = ["big"]
limit = "1:00:00"
[request]
source = "me"
[access]
source = "me"
internet = true
"""


def test_a_file_of_ones_own_can_be_named_in_three_ways(tmp_path: Path) -> None:
    file = tmp_path / "lumi.toml"
    file.write_text(OWN)
    for way in (["--on", file], ["--cluster", file], ["--on", "lumi", "--cluster", file]):
        plan = planned("gpt2", *way)
        assert (plan["cluster"]["title"], plan["best"]["gpu"]) == ("Our own", "h200")
    assert planned("gpt2", "--on", "lumi")["best"]["gpu"] == "mi250x"
    # The command to type again names the file, or it would mean another cluster.
    assert f"--cluster {file}" in text("gpt2", "--task", "embed", "--cluster", file)


def scontrol(folder: Path, name: str) -> None:
    """Stands for Slurm's command on a login node: the one line that is read of it."""
    script = folder / "scontrol"
    script.write_text(f"#!/bin/sh\necho 'ClusterName             = {name}'\n")
    script.chmod(0o755)


def test_the_cluster_that_one_is_on_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert planned("gpt2", "--on", "auto")["cluster"]["name"] == "laptop"
    scontrol(tmp_path, "snellius")
    assert planned("gpt2", "--on", "AUTO")["cluster"]["name"] == "snellius"
    scontrol(tmp_path, "elsewhere")
    refused = clusterlm("plan", "gpt2", "--on", "auto")
    assert refused.exit_code == 2
    assert "'elsewhere'" in refused.stderr and "clusterlm clusters probe" in refused.stderr


def test_a_broken_file_of_the_users_does_not_keep_auto_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "clusterlm" / "clusters" / "broken.toml"
    own.parent.mkdir(parents=True)
    own.write_text("title = ")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    scontrol(tmp_path, "snellius")
    result = clusterlm("plan", "gpt2", "--on", "auto")
    assert result.exit_code == 0
    assert "Snellius" in result.stdout and f"left out: {own}: this is not TOML" in result.stderr


def test_the_json_has_the_documented_keys() -> None:
    documented = REFERENCE.read_text().split("## On a cluster")[1]
    keys = set(re.findall(r"^\| `(\w+)`", documented, re.MULTILINE))
    assert set(planned("gpt2", "--on", "laptop")) == keys
    assert set(planned(*FULL_8B, "--on", "laptop", status=DOES_NOT_FIT)) == keys
    assert planned("gpt2", "--on", "laptop")["schema"] == 2


@pytest.mark.parametrize(
    ("command", "colour"),
    [
        (["gpt2", "--on", "laptop"], "green"),
        (["meta-llama/Llama-3.1-405B", "--on", "laptop"], "red"),
    ],
)
def test_the_headline_is_coloured_by_its_verdict(command: list[str], colour: str) -> None:
    result = CliRunner().invoke(main, ["plan", *command], color=True)
    assert result.stdout.startswith(click.style("", fg=colour, bold=True, reset=False))
