"""What follows from a plan on a cluster: the request to its Slurm, the command, and what its user must know besides."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from clusterlm.cli.main import main
from clusterlm.cluster import find_cluster, shipped_clusters
from clusterlm.model.find import find_model
from clusterlm.runs.asked import Asked
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.order import order
from clusterlm.units import slurm_seconds
from tests.cli.running import clusterlm
from tests.cli.test_plan_on import LORA_70B, part, planned, text


# ------------------------------------------------------------------------------------------------------ what to do
def test_generating_ends_in_a_command_that_exists() -> None:
    said = text("meta-llama/Llama-3.1-8B", "--on", "lumi", "--new-tokens", 99, "--gpus", 1)
    [command] = [line for line in said.splitlines() if line.startswith("clusterlm generate")]
    words = shlex.split(command)
    assert words[2:6] == ["meta-llama/Llama-3.1-8B", "INPUT", "-o", "OUTPUT"]
    assert words[words.index("--max-new-tokens") + 1] == "99"
    known = {name for option in main.commands["generate"].params for name in option.opts}
    assert {word for word in words if word.startswith("-")} <= known


def asked_of_slurm(*arguments: object) -> dict[str, str]:
    lines = part(text(*arguments), "REQUEST TO SLURM")[1:]
    assert lines == planned(*arguments)["best"]["request"]
    options = [line.removeprefix("#SBATCH ").partition("=") for line in lines]
    return {name: value for name, _, value in options}


def test_the_request_is_in_the_sites_own_spelling() -> None:
    """LUMI user guide: --gpus-per-node, --account; CSC on Roihu: --gres=gpu:gh200:N; BSC: a QoS and no partition."""
    lumi = asked_of_slurm(*LORA_70B, "--on", "lumi", "--gpus", 8, "--partition", "standard-g")
    assert (lumi["--partition"], lumi["--nodes"], lumi["--gpus-per-node"]) == ("standard-g", "1", "8")
    assert lumi["--account"] == "ACCOUNT" and "--exclusive" in lumi
    # 56 of a node's 64 cores are for jobs; --mem=0 is all memory of the node.
    assert (lumi["--cpus-per-task"], lumi["--mem"]) == ("56", "0")
    assert asked_of_slurm("gpt2", "--on", "lumi", "--gpus", 2)["--mem"] == "120G"
    # Nobody says how much RAM these nodes have: all of it can be asked for, a part cannot.
    generic = ["gpt2", "--on", "generic", "--gpu", "a100-80", "--gpus"]
    assert asked_of_slurm(*generic, 4)["--mem"] == "0" and "--mem" not in asked_of_slurm(*generic, 2)
    assert asked_of_slurm("gpt2", "--on", "roihu", "--gpus", 1)["--gres"] == "gpu:gh200:1"
    bsc = asked_of_slurm("gpt2", "--on", "marenostrum5", "--gpus", 1)
    assert bsc["--qos"] == "acc_ehpc" and "--partition" not in bsc
    tutorial = asked_of_slurm("gpt2", "--on", "soundbendor", "--gpu", "t4", "--gpus", 2)
    assert (tutorial["--nodelist"], tutorial["--account"], tutorial["--gres"]) == ("cn-m-1", "soundbendor", "gpu:2")
    assert "--account" not in asked_of_slurm("gpt2", "--on", "snellius")


def test_a_part_of_a_node_gets_its_part_of_cores_and_memory() -> None:
    """VSC-5: two GPUs on a node of 128 cores with two threads each; a quarter of a Snellius A100 node has 18 cores."""
    assert asked_of_slurm("gpt2", "--on", "vsc5", "--gpu", "a100", "--gpus", 1)["--cpus-per-task"] == "128"
    assert asked_of_slurm("gpt2", "--on", "snellius", "--gpu", "a100", "--gpus", 1)["--cpus-per-task"] == "18"


def test_the_time_asked_for_is_that_of_the_plan() -> None:
    best = planned(*LORA_70B, "--on", "lumi")["best"]
    [time] = [line.partition("--time=")[2] for line in best["request"] if "--time=" in line]
    assert slurm_seconds(time) == best["duration"]["asked"]


def test_where_no_job_can_be_submitted_none_is_asked_for() -> None:
    for cluster in ("laptop", "puhti"):
        assert planned("gpt2", "--on", cluster)["best"]["request"] == []
        assert "#SBATCH" not in text("gpt2", "--on", cluster)


@pytest.mark.parametrize(
    "command", [[*LORA_70B, "--no-autocast"], ["gpt2", "--task", "embed"], ["gpt2", "--engine", "vllm"]]
)
def test_no_command_is_shown_that_does_not_exist(command: list[str]) -> None:
    said = text(*command, "--on", "snellius")
    shown = [line for line in said.splitlines() if line.startswith("clusterlm ")]
    assert [line.split()[1] for line in shown] == ["plan"]
    assert planned(*command, "--on", "snellius")["best"]["command"] is None
    again = clusterlm(*shlex.split(shown[0])[1:])
    assert again.exit_code == 0
    assert again.stdout.splitlines()[0] == said.splitlines()[0]


@pytest.mark.parametrize(
    "flags",
    [
        ["--gpus", "2", "--copies", "1", "--partition", "gpu_a100", "--strategy", "tensor"],
        ["--attention", "eager"],
        ["--engine", "vllm"],
        ["--strategy", "tensor", "--gpus", "2"],
    ],
    ids=" ".join,
)
def test_what_generate_has_no_flag_for_is_no_command(flags: list[str]) -> None:
    assert planned("meta-llama/Llama-3.1-8B", "--on", "snellius", *flags)["best"]["command"] is None


def test_one_copy_over_several_gpus_is_generated_and_an_encoder_decoder_is_not() -> None:
    command = ["meta-llama/Llama-3.1-8B", "--on", "lumi", "--gpus", "2", "--copies", "1", "--quantize", "int8"]
    assert "--quantize int8" in str(planned(*command)["best"]["command"])
    assert planned("google/flan-t5-base", "--on", "lumi", "--gpus", 1)["best"]["command"] is None
    awq = planned("TheBloke/Mistral-7B-v0.1-AWQ", "--on", "lumi", "--gpus", 1)["best"]
    assert awq["command"] is None, "autoawq is no part of clusterlm[run]"


def test_the_command_of_a_plan_makes_jobs_of_just_this_plan() -> None:
    """What clusterlm generate would then ask Slurm for is what the plan asks for."""
    wishes = ["gpt2", "--on", "snellius", "--gpus", 4, "--copies", 4, "--records", 200, "--gpu", "a100"]
    command = command_of(*wishes)
    assert command[command.index("--on") + 1] == "snellius"
    for name, value in (("--copies", "4"), ("--gpus", "4"), ("--gpu", "a100-40"), ("--partition", "gpu_a100")):
        assert command[command.index(name) + 1] == value
    here = planned("gpt2", "--on", "laptop")["best"]["command"]
    assert "--on" not in here


def command_of(*arguments: object) -> list[str]:
    words = shlex.split(planned(*arguments)["best"]["command"])
    known = {name for option in main.commands["generate"].params for name in option.opts}
    assert {word for word in words if word.startswith("-")} <= known
    return words


def test_the_command_keeps_what_was_asked_of_the_plan() -> None:
    """`clusterlm generate --quantize nf4` quantises the scales too: nf4-dq."""
    command = command_of("gpt2", "--on", "lumi", "--gpus", 1, "--quantize", "nf4-dq", "--attention", "sdpa")
    assert command[command.index("--quantize") + 1] == "nf4"
    sizes = ["--gpus", 1, "--sequence-length", 200, "--new-tokens", 56]
    command = command_of("gpt2", "--on", "lumi", *sizes, "--batch", 8)
    assert command[command.index("--max-batch-tokens") + 1] == str(8 * 256)
    assert "--max-batch-tokens" not in command_of("gpt2", "--on", "lumi", *sizes)


TRAININGS = [
    ["gpt2", "--method", "full", "--on", "snellius"],
    ["gpt2", "--method", "full", "--on", "lumi", "--gpus", "8", "--epochs", "3", "--optimizer", "adafactor"],
    ["meta-llama/Llama-3.1-8B", "--method", "full", "--on", "roihu", "--dtype", "bfloat16", "--batch", "48"],
    ["meta-llama/Llama-3.1-8B", "--method", "lora", "--on", "karolina", "--lora-targets", "q_proj,v_proj"],
    ["meta-llama/Llama-3.1-70B", "--method", "qlora", "--on", "vsc5", "--lora-rank", "8"],
    ["meta-llama/Llama-3.1-70B", "--method", "full", "--on", "leonardo", "--sequence-length", "1024"],
]


@pytest.mark.parametrize("wishes", TRAININGS, ids=" ".join)
def test_the_command_of_a_training_is_taken_and_its_job_is_that_of_the_plan(
    wishes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = planned(*wishes)["best"]
    words = shlex.split(best["command"])
    assert words[:5] == ["clusterlm", "train", wishes[0], "DATA", "-o"]
    (tmp_path / "texts.txt").write_text("what is learned\n")
    arguments = [str(tmp_path / "texts.txt") if word == "DATA" else word for word in words[1:]]
    taken: list[Any] = []
    monkeypatch.setattr("clusterlm.cli.submit.submit_run", lambda *given, **others: taken.extend((*given, others)))
    done = clusterlm(*arguments)
    assert done.exit_code == 0, done.output
    spec, placing, terms, others = taken
    shape, cluster = find_model(wishes[0]), find_cluster(others["on"])
    asked = Asked(
        spec=spec,
        input_path=Path(spec.input),
        model_name=wishes[0],
        model_path=tmp_path,
        model_fingerprint="",
        requests=1000,
        input_digest="",
    )
    made = order(asked, RunFolder(tmp_path / "OUTPUT.run"), cluster, shape, placing, terms)
    chosen = made.best
    assert (chosen.place.partition_name, chosen.case.strategy.gpus) == (best["partition"], best["gpus"])
    assert (chosen.wishes.strategy, chosen.case.strategy.offload) == (best["strategy"], best["offload"])
    assert (chosen.case.workload.batch, chosen.case.accumulation_steps) == (best["batch"], best["accumulation_steps"])
    assert chosen.case.workload.checkpointing == best["gradient_checkpointing"]
    assert chosen.needed == best["needed"], "all that decides the memory is the same"


def test_what_train_has_no_flag_for_is_no_command() -> None:
    for flags in (["--strategy", "tensor", "--gpus", "4"], ["--autocast"], ["--dtype", "float16"]):
        assert (
            planned("meta-llama/Llama-3.1-8B", "--method", "full", "--on", "snellius", *flags)["best"]["command"]
            is None
        ), flags


def test_a_model_on_one_gpu_is_kept_from_the_idle_ones_of_its_node() -> None:
    """transformers' device_map="auto" lays a model over all GPUs that it sees."""
    whole_node = ["gpt2", "--on", "lumi", "--partition", "standard-g", "--gpus"]
    command = command_of(*whole_node, 1)
    assert command[command.index("--device-map") + 1] == "cuda:0"
    assert "--device-map" not in command_of("gpt2", "--on", "lumi", "--gpus", 1)
    assert planned(*whole_node, 2, "--copies", 1)["best"]["command"] is None


def settings(said: str) -> list[str]:
    [line] = [line for line in said.splitlines() if line.startswith("clusterlm plan ")]
    return shlex.split(line)[1:]


@pytest.mark.parametrize("named", [["--on", "lumi"], ["--on", "PATH"], ["--cluster", "PATH"]], ids=" ".join)
@pytest.mark.parametrize(
    "wishes", [["gpt2", "--gpus", "1"], [*LORA_70B, "--lora-targets", "q_proj,v_proj"]], ids=lambda words: words[0]
)
def test_the_printed_settings_give_the_same_plan_again(named: list[str], wishes: list[str], tmp_path: Path) -> None:
    own = tmp_path / "my lumi.toml"
    own.write_text(shipped_clusters()["lumi"].read_text())
    words = [str(own) if word == "PATH" else word for word in named]
    again = settings(text(*wishes, *words))
    assert again[again.index(words[0]) + 1] == words[1]
    first, second = planned(*wishes, *words)["best"], planned(*again[1:])["best"]
    for name in ("strategy", "gpus", "partition", "batch", "gradient_checkpointing", "billing_units"):
        assert second[name] == first[name], name


def test_where_a_price_is_missing_gpu_hours_are_compared_with_gpu_hours(tmp_path: Path) -> None:
    own = tmp_path / "snellius.toml"
    lines = shipped_clusters()["snellius"].read_text().splitlines()
    own.write_text(
        "\n".join(line for line in lines if line != "billing_units_per_gpu_hour = 192").replace(
            ', "billing_units_per_gpu_hour"]', "]"
        )
    )
    command = [*LORA_70B, "--on", own, "--gpu", "a100"]
    plan = planned(*command)
    assert plan["best"]["billing_units"] is not None and plan["unpinned"]["billing_units"] is None
    more = 100 * (plan["best"]["gpu_hours"] / plan["unpinned"]["gpu_hours"] - 1)
    assert f"your choices (--gpu a100) cost {more:.0f} % more GPU-hours" in " ".join(text(*command).split())


def test_a_wish_for_no_is_shown_as_it_was_given() -> None:
    said = text("gpt2", "--method", "full", "--on", "lumi", "--gpus", 8, "--no-gradient-checkpointing")
    assert "your choices (--gpus 8, --no-gradient-checkpointing)" in said


@pytest.mark.parametrize("way", [["--on"], ["--cluster"]], ids=str)
def test_the_command_that_shows_ones_own_cluster_names_its_file(way: list[str], tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(shipped_clusters()["karolina"].read_text())
    assert f"(clusterlm clusters show {own})" in notes("gpt2", *way, own)


# ----------------------------------------------------------------------------------------------------------- notes
def notes(*arguments: object, status: int = 0) -> str:
    return "\n".join(planned(*arguments, status=status)["notes"])


def test_a_retired_cluster_can_be_planned_and_names_its_successor() -> None:
    """CSC: Puhti was closed on 31 July 2026; Roihu follows it."""
    said = notes("gpt2", "--on", "puhti")
    assert "puhti went out of service on 2026-07-31" in said and "--on roihu" in said
    assert "out of service" not in notes("gpt2", "--on", "roihu")


def test_compute_nodes_without_a_network_are_pointed_out() -> None:
    """CINECA and BSC: compute nodes of Leonardo and MareNostrum 5 reach no network."""
    for cluster in ("leonardo", "marenostrum5"):
        assert "fetch the model" in notes("gpt2", "--on", cluster)
    assert "fetch the model" not in notes("gpt2", "--on", "lumi")


def test_facts_that_nobody_checked_are_named() -> None:
    said = notes("gpt2", "--on", "snellius", "--gpu", "h100")
    assert "no source that was read confirms the kind of GPU, price of a GPU-hour" in said
    assert "confirms" not in notes("gpt2", "--on", "snellius", "--gpu", "a100")


def test_a_disk_that_is_too_small_is_pointed_out() -> None:
    """CSC: scratch of Roihu holds 250 GiB; three checkpoints of 8 billion weights and their AdamW states take more."""
    command = ["meta-llama/Llama-3.1-8B", "--method", "full", "--on", "roihu"]
    said = notes(*command)
    assert "disk: 344.0 GiB are needed; the largest place here, scratch, gives 250" in said
    assert "--keep-checkpoints 1" in said and "--keep-checkpoints" not in notes(*command, "--keep-checkpoints", 1)
    assert "disk: " not in notes("gpt2", "--on", "roihu") + notes(*command[:-1], "lumi")


def test_what_the_profile_says_to_its_users_is_said() -> None:
    assert "use the site's ROCm containers" in notes("gpt2", "--on", "lumi")


def test_a_partitions_own_rule_is_said() -> None:
    said = notes("gpt2", "--on", "roihu", "--partition", "gpularge")
    assert "partition gpularge: the project must have passed a scalability test" in said


def test_the_cautions_of_the_memory_are_kept() -> None:
    """A V100 has no bfloat16."""
    assert "no bfloat16" in notes("gpt2", "--on", "puhti", "--dtype", "bfloat16")
