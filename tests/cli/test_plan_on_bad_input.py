"""Wishes that a cluster cannot grant: one message that says which, why, and what to do; before anything is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterlm.cluster import shipped_clusters
from tests.cli.running import clusterlm

LLAMA = "meta-llama/Llama-3.1-8B"
FULL = [LLAMA, "--method", "full"]


def refused(arguments: list[object], status: int, says: list[str]) -> None:
    result = clusterlm("plan", *arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    for words in says:
        assert words in result.stderr


# --------------------------------------------------------------------------------------------------- no such thing
NOT_THERE: list[tuple[list[object], int, list[str]]] = [
    ([LLAMA, "--on", "lumii"], 2, ["--on", "no cluster is called 'lumii'", "did you mean 'lumi'?"]),
    ([LLAMA, "--on", ""], 2, ["--on", "the name is empty", "clusterlm clusters list"]),
    ([LLAMA, "--cluster", ""], 2, ["--cluster", "the name of the file is empty"]),
    (["", "--on", "lumi"], 2, ["MODEL", "the name is empty"]),
    ([LLAMA, "--method", "lora", "--lora-targets", "", "--on", "lumi"], 2, ["--lora-targets", "is empty"]),
    ([LLAMA, "--on", "lumi", "--gpu", "a100"], 2, ["--gpu", "lumi has no GPU 'a100'", "mi250x"]),
    ([LLAMA, "--on", "lumi", "--gpu", "mi250"], 2, ["did you mean 'mi250x'?"]),
    ([LLAMA, "--on", "lumi", "--partition", "standardg"], 2, ["--partition", "did you mean 'standard-g'?"]),
    ([LLAMA, "--on", "generic"], 2, ["--gpu", "kind of GPU", "--gpu a100-80"]),
    ([LLAMA, "--on", "generic", "--gpu", "any"], 2, ["--gpu", "'any' stands for the kind that you name", "a100-80"]),
    ([LLAMA, "--gpu", ""], 2, ["--gpu", "the name is empty", "a100-80"]),
    ([LLAMA, "--on", "generic", "--gpu", "a100"], 2, ["several sizes", "a100-40", "a100-80"]),
    ([LLAMA, "--on", "lumi", "--prefer", "cheap"], 2, ["--prefer", "did you mean 'cheapest'?"]),
    ([LLAMA, "--on", "lumi", "--nodes", 0], 2, ["--nodes", "0 is less than 1"]),
    (["meta-llama/Llama-3.1-8C", "--on", "lumi"], 1, ["meta-llama/Llama-3.1-8C", "meta-llama/Llama-3.1-8B"]),
    ([LLAMA, "--cluster", "nowhere/my.toml"], 2, ["nowhere/my.toml", "no such cluster file"]),
]


@pytest.mark.parametrize(("arguments", "status", "says"), NOT_THERE, ids=lambda value: str(value)[:60])
def test_what_is_not_there_is_named_with_what_is(arguments: list[object], status: int, says: list[str]) -> None:
    refused(arguments, status, says)


# ------------------------------------------------------------------------------------------ wishes that contradict
CONTRADICTING: list[tuple[list[object], list[str]]] = [
    # CSC: gpumedium of Roihu gives a job at most one node of four GPUs.
    ([LLAMA, "--on", "roihu", "--partition", "gpumedium", "--gpus", 64], ["--partition gpumedium and --gpus 64"]),
    ([LLAMA, "--on", "roihu", "--partition", "gpularge", "--gpus", 2], ["--partition gpularge and --gpus 2"]),
    (
        [LLAMA, "--on", "snellius", "--gpu", "a100", "--partition", "gpu_h100"],
        ["--partition gpu_h100 and --gpu a100", "h100-94", "--partition gpu_a100"],
    ),
    ([LLAMA, "--on", "lumi", "--nodes", 2, "--gpus", 4], ["--nodes 2 and --gpus 4", "2 nodes here: 16 GPUs"]),
    ([LLAMA, "--on", "lumi", "--partition", "dev-g", "--nodes", 64], ["--partition dev-g and --nodes 64", "32 nodes"]),
    ([*FULL, "--on", "lumi", "--strategy", "single", "--gpus", 4], ["--gpus 4 and --strategy single", "one GPU"]),
    ([*FULL, "--on", "lumi", "--strategy", "fsdp", "--gpus", 1], ["--gpus 1 and --strategy fsdp", "at least 2 GPUs"]),
    ([LLAMA, "--on", "lumi", "--copies", 3, "--gpus", 8], ["--gpus 8 and --copies 3", "8 GPUs cannot be shared by 3"]),
    ([LLAMA, "--on", "lumi", "--gpus", 9], ["--gpus", "no partition gives a job 9 GPUs", "whole nodes of 8"]),
    ([LLAMA, "--on", "lumi", "--nodes", 3000], ["--nodes", "no partition gives a job 3,000 nodes", "1,024 nodes"]),
    ([LLAMA, "--on", "laptop", "--gpus", 2], ["--gpus", "no partition gives a job 2 GPUs"]),
    ([LLAMA, "--on", "lumi", "--gpus-per-node", 4], ["--gpus-per-node", "the cluster's profile says"]),
    ([*FULL, "--on", "lumi", "--copies", 2], ["--copies", "generating and embedding"]),
    ([*FULL, "--on", "lumi", "--records", 5], ["--records", "generating and embedding"]),
    ([LLAMA, "--on", "lumi", "--epochs", 2], ["--epochs", "belongs to training"]),
    ([LLAMA, "--on", "lumi", "--strategy", "fsdp"], ["--strategy fsdp", "belongs to training", "pipeline or tensor"]),
    ([LLAMA, "--on", "lumi", "--strategy", "fsdp", "--gpus", 8], ["--strategy fsdp", "belongs to training"]),
    # 7 sequences cannot be shared by whole nodes of 8; 64 are not a multiple of 3.
    ([*FULL, "--on", "lumi", "--partition", "standard-g", "--batch", 7], ["--batch", "8 GPUs", "--batch 8"]),
    (
        [*FULL, "--on", "lumi", "--batch", 64, "--micro-batch", 3],
        ["--batch 64 and --micro-batch 3", "no multiple"],
    ),
    (["gpt2", "--on", "lumi", "--sequence-length", 2000], ["--sequence-length", "1,024", "at most 768"]),
    (["google-bert/bert-base-uncased", "--on", "lumi"], ["encoder", "--task embed"]),
    ([LLAMA, "--on", "soundbendor", "--gpu", "t4", "--attention", "flash"], ["Ampere", "--attention sdpa"]),
    ([LLAMA, "--on", "lumi", "--explain", "--json"], ["--explain", "--json"]),
    ([*FULL, "--on", "lumi", "--method", "qlora", "--trace"], ["--trace", "quantised weights"]),
]


@pytest.mark.parametrize(("arguments", "says"), CONTRADICTING, ids=lambda value: " ".join(map(str, value))[:70])
def test_wishes_that_contradict_are_both_named(arguments: list[object], says: list[str]) -> None:
    refused(arguments, 2, says)


@pytest.mark.parametrize(
    "flags",
    [["--partition", "gpu"], ["--nodes", 1], ["--prefer", "cheapest"], ["--records", 3], ["--all"]],
    ids=lambda flags: str(flags[0]),
)
def test_what_belongs_to_a_cluster_is_refused_without_one(flags: list[object]) -> None:
    refused([LLAMA, "--gpu", "a100-80", *flags], 2, [str(flags[0]), "a plan on a cluster", "--on"])


def test_epochs_are_refused_without_a_cluster_as_memory_knows_none() -> None:
    refused([*FULL, "--gpu", "a100-80", "--epochs", 3], 2, ["--epochs", "--on"])


def test_without_a_card_or_a_cluster_both_are_offered() -> None:
    refused([LLAMA], 2, ["--gpu a100-80", "--on lumi"])


def test_a_file_of_another_name_than_the_cluster_is_refused() -> None:
    file = shipped_clusters()["puhti"]
    refused([LLAMA, "--on", "lumi", "--cluster", file], 2, ["--on lumi and --cluster", "'puhti'"])


def test_a_profile_with_a_mistake_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = shipped_clusters()["laptop"].read_text()
    file.write_text(text.replace("gpus = 1", 'gpus = "one"'))
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if line == "gpus = 1")
    refused([LLAMA, "--on", file], 2, [str(file), f"line {line}: nodes.laptop.gpus", "'one' is not a whole number"])
    file.write_text("title = ")
    refused([LLAMA, "--cluster", file], 2, [str(file), "not TOML"])


def test_a_batch_that_no_whole_node_shares_goes_on_a_part_of_one() -> None:
    """A batch of 7 goes on 7 GPUs of a node that is shared, and on no number of whole nodes of 8."""
    result = clusterlm("plan", *FULL, "--on", "lumi", "--batch", 7)
    assert result.exit_code == 0
    assert " on 7 GCDs" in result.stdout.splitlines()[0] or " on 1 GCD" in result.stdout.splitlines()[0]
