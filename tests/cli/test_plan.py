"""clusterlm plan, from the command line: what fits, the numbers behind it, and what would help."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from clusterlm.model.architectures import known_architectures
from tests.cli.running import clusterlm

GIB = 2**30
DOES_NOT_FIT = 3
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "plan-json.md"


def planned(*arguments: object, status: int = 0) -> dict[str, Any]:
    result = clusterlm("plan", *arguments, "--json")
    assert result.exit_code == status, result.output
    assert result.stderr == ""
    values = json.loads(result.stdout)
    assert isinstance(values, dict)
    return values


def amount(items: list[dict[str, Any]], name: str) -> int:
    [found] = [item["bytes"] for item in items if item["name"].startswith(name)]
    assert isinstance(found, int)
    return found


def text(*arguments: object, status: int = 0) -> str:
    result = clusterlm("plan", *arguments)
    assert result.exit_code == status, result.output
    return result.stdout


# ------------------------------------------------------------------------------------- examples of the known guides
def test_the_csc_guides_gpt_neo_fits_a_v100_for_full_fine_tuning() -> None:
    """The guide fine-tunes EleutherAI/gpt-neo-1.3B on one V100 with 32 GB, and expects about 5 x 4 B a parameter."""
    plan = planned("EleutherAI/gpt-neo-1.3B", "--gpu", "v100-32", "--method", "full", "--sequence-length", 512)
    # The hub counts 1,315,575,808 parameters; the guide's "1.37 billion" gives 27.4 GB by the same rule.
    assert plan["model"]["parameters"] == 1_315_575_808
    assert amount(plan["rules_of_thumb"], "weights x 5") == 5 * 4 * 1_315_575_808
    # Weights, gradients and AdamW's two moments, 4 bytes each: 19.6 GiB before any activation.
    assert plan["one_gpu"]["allocated"] > 16 * 1_315_575_808


def test_the_slides_mistral_7b_takes_28_gb_on_a_gpu_and_56_gb_on_a_node_of_two() -> None:
    options = ["--method", "full", "--gpus", 2, "--gpus-per-node", 2, "--strategy", "fsdp"]
    rules = planned("mistralai/Mistral-7B-v0.1", "--gpu", "a100-40", *options, status=DOES_NOT_FIT)["rules_of_thumb"]
    # 7,241,732,096 parameters on the hub; the slides say 7 billion.
    assert amount(rules, "parameters x 4 B, on the GPU") == 4 * 7_241_732_096
    assert amount(rules, "parameters x 4 B x GPUs of a node") == 2 * 4 * 7_241_732_096


def test_a_30b_model_in_16_bits_needs_two_a100_40() -> None:
    """The Snellius post runs OPT-30b over the A100s (40 GB) of a node; 60 GB of weights are more than one has."""
    assert not planned("facebook/opt-30b", "--gpu", "a100-40", status=DOES_NOT_FIT)["fits"]
    assert planned("facebook/opt-30b", "--gpu", "a100-40", "--gpus", 2)["fits"]


# ------------------------------------------------------------------------------------------------ hand calculations
def test_weights_and_cache_of_llama_3_by_hand() -> None:
    batch, prompt, new = 8, 3840, 256
    options = ["--batch", batch, "--sequence-length", prompt, "--new-tokens", new]
    plan = planned("meta-llama/Llama-3.1-8B", "--gpu", "a100-80", *options)
    # model.safetensors.index.json on the hub: total_size 16,060,522,496.
    [load] = [phase["bytes"] for phase in plan["phases"] if phase["name"] == "load"]
    assert load == pytest.approx(16_060_522_496, rel=0.001)
    # 32 layers x 2 x 8 KV heads x 128 x 2 B = 128 KiB a token; 8 x 4,096 tokens: 4 GiB.
    longest = max(amount(phase["items"], "KV cache") for phase in plan["phases"] if "token" in phase["name"])
    assert longest == pytest.approx(4 * GIB, rel=0.001)


def test_the_three_numbers_are_in_order_and_the_card_is_smaller_than_its_box() -> None:
    gpu = planned("meta-llama/Llama-3.1-8B", "--gpu", "h100-80")["one_gpu"]
    assert gpu["allocated"] <= gpu["reserved_low"] <= gpu["reserved_high"]
    assert gpu["allocated"] < gpu["needed"]
    # vLLM's logs on H100-80: 79.18 to 79.19 GiB.
    assert gpu["available"] / GIB == pytest.approx(79.18, abs=0.02)
    assert gpu["margin"] == gpu["available"] - gpu["needed"]


def test_lora_on_all_linears_of_llama_3_trains_what_peft_trains() -> None:
    """peft's print_trainable_parameters: rank 16 on q, k, v, o, gate, up, down of Llama-3-8B is 41,943,040."""
    plan = planned("meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--method", "lora")
    assert plan["workload"]["trained_parameters"] == 41_943_040
    # An adapter parameter on the disk: 4 B and two moments of 4 B; two checkpoints kept and one being written.
    assert amount(plan["disk"], "checkpoints") == 3 * 12 * 41_943_040


def test_ddp_loads_a_copy_for_each_process_and_fsdp_one_for_the_node() -> None:
    """Hugging Face's FSDP blog: 70 B x 4 B x 8 processes is about 2 TB of host memory without efficient loading."""
    options = ["--gpu", "h200", "--method", "full", "--gpus", 8, "--dtype", "float32"]
    copies = planned("meta-llama/Llama-2-70b-hf", *options, "--strategy", "ddp", status=DOES_NOT_FIT)
    whole = 4 * 68_976_648_192
    assert amount(copies["host_per_node"], "weights while loading") == 8 * whole
    assert 2.0e12 < 8 * whole < 2.4e12
    one = planned("meta-llama/Llama-2-70b-hf", *options, "--strategy", "fsdp", status=DOES_NOT_FIT)
    assert amount(one["host_per_node"], "weights while loading") == whole


def test_bytes_on_the_network_are_those_of_the_zero_paper() -> None:
    """Section 7: data parallel and ZeRO 2 send 2 x the gradients, ZeRO 3 half as much again; a ring saves 1/N of it."""
    options = ["--gpu", "a100-80", "--method", "full", "--gpus", 4, "--dtype", "bfloat16"]
    whole = 2 * 124_439_808 * 3 // 4

    def sent(strategy: str) -> int:
        network = planned("gpt2", *options, "--strategy", strategy)["network"]
        return sum(item["bytes"] for item in network if "a step" in item["name"])

    assert sent("ddp") == pytest.approx(2 * whole)
    assert sent("zero2") == pytest.approx(2 * whole)
    assert sent("fsdp") == pytest.approx(3 * whole)


def test_the_global_batch_is_reached_by_accumulation() -> None:
    options = ["--gpu", "a100-80", "--method", "lora", "--gpus", 4, "--micro-batch", 2, "--batch", 64]
    workload = planned("gpt2", *options)["workload"]
    assert (workload["accumulation_steps"], workload["global_batch"]) == (8, 64)


# ------------------------------------------------------------------------------------------------------ the verdict
WAYS_OUT = [
    ["meta-llama/Llama-3.1-70B", "--gpu", "a100-80"],
    ["meta-llama/Llama-3.1-70B", "--gpu", "v100-32", "--batch", "8"],
    ["meta-llama/Llama-3.1-70B", "--gpu", "a100-80", "--method", "lora", "--micro-batch", "4"],
    ["meta-llama/Llama-3.1-8B", "--gpu", "a100-40", "--method", "lora", "--micro-batch", "16", "--batch", "64"],
    ["meta-llama/Llama-2-7b-hf", "--gpu", "a100-80", "--method", "full", "--no-gradient-checkpointing"],
]


@pytest.mark.parametrize("command", WAYS_OUT, ids=" ".join)
def test_what_does_not_fit_is_a_verdict_and_each_change_offered_fits(command: list[str]) -> None:
    plan = planned(*command, status=DOES_NOT_FIT)
    assert plan["headline"].startswith("Does not fit")
    assert plan["changes"]
    for change in plan["changes"]:
        again = planned(*command, *shlex.split(change["flags"]))
        assert again["one_gpu"]["needed"] == change["needed"]


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    options = ["meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--method", "lora", "--micro-batch"]
    largest = planned(*options, 1)["largest_batch"]
    assert planned(*options, largest)["fits"]
    assert not planned(*options, largest + 1, status=DOES_NOT_FIT)["fits"]


def test_vllms_cache_pool_says_how_many_sequences_are_held_at_once() -> None:
    options = ["Qwen/Qwen3-8B", "--gpu", "a100-40", "--engine", "vllm", "--sequence-length", 2000, "--new-tokens", 33]
    plan = planned(*options)
    pool = plan["cache_pool"]
    # 36 layers x 2 x 8 KV heads x 128 x 2 B a token, in blocks of 16 tokens; 2,033 tokens take 128 blocks.
    assert pool["tokens"] == pool["bytes"] // (16 * 147_456) * 16
    assert pool["sequences"] == pool["tokens"] // 2048 == plan["largest_batch"]
    # 90 % of the card without the profile run; CUDA graphs stand beside it.
    profile = plan["phases"][0]["bytes"]
    assert pool["bytes"] == pytest.approx(0.9 * plan["gpu"]["bytes"] - profile, abs=2)
    assert amount(plan["runtime"], "CUDA graphs") == plan["one_gpu"]["available"] - profile - pool["bytes"]
    assert planned(*options, "--batch", pool["sequences"])["fits"]
    planned(*options, "--batch", pool["sequences"] + 1, status=DOES_NOT_FIT)
    assert f"{pool['tokens']:,} tokens: {pool['sequences']} sequences of 2,033 at once" in text(*options)


def test_vllm_does_not_fit_where_its_pool_does_not_hold_one_sequence() -> None:
    options = ["meta-llama/Llama-3.1-8B", "--gpu", "l4", "--engine", "vllm", "--sequence-length", 100_000]
    plan = planned(*options, status=DOES_NOT_FIT)
    assert plan["cache_pool"]["tokens"] > 0
    assert plan["cache_pool"]["sequences"] == 0
    assert "no sequence of 100,256 at once" in text(*options, status=DOES_NOT_FIT)


def test_a_card_with_little_beside_vllms_share_lowers_it() -> None:
    """48 layers: graphs 0.36 + 48 x 0.0158 = 1.12 GiB and the context 0.51; a tenth of a T4's 14.56 GiB is 1.46."""
    options = ["Qwen/Qwen2.5-14B", "--gpu", "t4", "--gpus", 4, "--engine", "vllm", "--dtype", "float16"]
    assert not any("--gpu-memory-utilization" in note for note in planned("gpt2", *options[1:3], *options[5:])["notes"])
    assert any("--gpu-memory-utilization 0.88" in note for note in planned(*options)["notes"])


def test_the_text_says_what_decides_and_marks_the_phase() -> None:
    said = text("meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--method", "lora", "--micro-batch", 4)
    plan = planned("meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--method", "lora", "--micro-batch", 4)
    first, phase = said.splitlines()[0], plan["deciding"]["phase"]
    assert first == plan["headline"]
    assert first.startswith("Fits: ") and " of 79.2 GiB" in first and phase in first
    assert re.search(rf"^{re.escape(phase)} .*<- decides$", said, re.MULTILINE)
    assert max(plan["phases"], key=lambda one: one["bytes"])["name"] == phase
    for words in ("8,030,261,248 parameters, as published", "allocated", "reserved", "needed", "RULE OF THUMB", "█"):
        assert words in said


def test_a_mixture_shows_its_active_parameters() -> None:
    """Mixtral-8x7B's authors: 46.7 B parameters, 12.9 B of them for a token."""
    model = planned("mistralai/Mixtral-8x7B-v0.1", "--gpu", "h200")["model"]
    assert model["parameters"] / 1e9 == pytest.approx(46.7, abs=0.05)
    assert model["active_parameters"] / 1e9 == pytest.approx(12.9, abs=0.05)


def test_explain_puts_numbers_into_the_formulas_and_names_the_sources() -> None:
    said = text("meta-llama/Llama-3.1-8B", "--gpu", "a100-80", "--batch", 16, "--sequence-length", 4096, "--explain")
    # 32 layers x 2 x 8 KV heads x 128 x 2 B: 128 KiB a token; 16 x 4,096 tokens of prompt: 8 GiB.
    assert "16 x 32 x 4,096 x 2 x 8 x 128 x 2" in said
    assert f"KV cache = {8 * GIB:,} B" in said
    assert "source: CSC guide" in said


def test_the_json_has_the_documented_keys() -> None:
    on_a_card = REFERENCE.read_text().split("## On a cluster")[0]
    documented = set(re.findall(r"^\| `(\w+)`", on_a_card, re.MULTILINE))
    assert set(planned("gpt2", "--gpu", "t4")) == documented


def test_a_folder_without_weights_can_be_planned(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    assert planned(tmp_path, "--gpu", "t4")["model"]["parameters"] == 124_439_808


GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}


@pytest.mark.parametrize(
    ("strategy", "words"),
    [("ddp", "DDP"), ("fsdp", "FSDP2"), ("zero1", "ZeRO-1"), ("zero2", "ZeRO-2"), ("zero3", "ZeRO-3")],
)
def test_every_way_to_train_on_several_gpus_is_shown_by_its_name(strategy: str, words: str) -> None:
    asked = ("gpt2", "--gpu", "a100-80", "--gpus", 4, "--method", "full", "--strategy", strategy)
    shown = clusterlm("plan", *asked)
    assert shown.exit_code == 0, shown.output
    assert f"4 x NVIDIA A100 80 GB, on 1 node; data parallel 4, {words}\n" in shown.output


# -------------------------------------------------------------------------------------------------------- bad input
TRAINED_BY_FSDP = ["meta-llama/Llama-3.1-70B", "--gpu", "t4", "--gpus", 8, "--strategy", "fsdp"]
BAD: list[tuple[list[object], int, list[str]]] = [
    (["gpt2"], 2, ["--gpu", "a100-80"]),
    (["gpt2", "--gpu", "a100"], 2, ["--gpu", "several sizes", "a100-40", "a100-80"]),
    (["gpt2", "--gpu", "h10-80"], 2, ["h10-80", "did you mean 'h100-80'?"]),
    (["meta-llama/Llama-3.1-8C", "--gpu", "t4"], 1, ["meta-llama/Llama-3.1-8C", "meta-llama/Llama-3.1-8B"]),
    (["gpt2", "--gpu", "t4", "--batch", 0], 2, ["--batch", "0 is less than 1"]),
    (["gpt2", "--gpu", "t4", "--task", "trian"], 2, ["--task", "did you mean 'train'?"]),
    (["gpt2", "--gpu", "t4", "--quantize", "nf44"], 2, ["--quantize", "did you mean 'nf4'?"]),
    (["gpt2", "--gpu", "t4", "--sequence-length", 2000], 2, ["2,256 tokens", "1,024", "at most 768"]),
    (["gpt2", "--gpu", "t4", "--method", "lora", "--new-tokens", 3], 2, ["--new-tokens", "--sequence-length"]),
    (["gpt2", "--gpu", "t4", "--optimizer", "adamw"], 2, ["--optimizer", "--task train"]),
    (["gpt2", "--gpu", "t4", "--strategy", "fsdp", "--task", "train"], 2, ["at least 2 GPUs", "--gpus 2"]),
    (["gpt2", "--gpu", "t4", "--gpus", 4, "--strategy", "zero2"], 2, ["zero2", "training", "pipeline"]),
    (["gpt2", "--gpu", "t4", "--gpus", 2, "--strategy", "single"], 2, ["single", "one GPU"]),
    (["gpt2", "--gpu", "t4", "--gpus", 12, "--method", "full"], 2, ["idle", "--gpus 16"]),
    (["gpt2", "--gpu", "t4", "--gpus", 5, "--engine", "vllm"], 2, ["12 attention heads", "2, 3, 4, 6, 12"]),
    (["gpt2", "--gpu", "t4", "--gpus", 2, "--strategy", "tensor"], 2, ["no plan", "--engine vllm"]),
    (["gpt2", "--gpu", "t4", "--gpus", 2, "--strategy", "tensor", "--task", "train"], 2, ["no plan", "fsdp"]),
    (["gpt2", "--gpu", "t4", "--method", "full", "--lora-rank", 4], 2, ["--lora-rank", "--method lora"]),
    (["gpt2", "--gpu", "t4", "--engine", "vllm", "--attention", "sdpa"], 2, ["--attention", "own kernels"]),
    (["gpt2", "--gpu", "t4", "--task", "embed", "--engine", "vllm"], 2, ["--engine vllm", "embedding"]),
    (
        ["gpt2", "--gpu", "t4", "--method", "full", "--gpus", 2, "--strategy", "zero2", "--autocast"],
        2,
        ["--autocast", "DeepSpeed"],
    ),
    (["gpt2", "--gpu", "t4", "--method", "full", "--quantize", "nf4"], 2, ["not trained", "--method qlora"]),
    (["gpt2", "--gpu", "t4", "--method", "full", "--batch", 3, "--gpus", 2], 2, ["multiple", "--batch 2", "--batch 4"]),
    (["gpt2", "--gpu", "v100-32", "--attention", "flash"], 2, ["Ampere", "--attention sdpa"]),
    (["gpt2", "--gpu", "v100-32", "--engine", "vllm", "--dtype", "bfloat16"], 2, ["bfloat16", "--dtype float16"]),
    (["gpt2", "--gpu", "t4", "--method", "full", "--engine", "vllm"], 2, ["vLLM does not train"]),
    (["gpt2", "--gpu", "t4", "--method", "full", "--gpus", 2, "--offload", "nvme"], 2, ["nvme", "zero3"]),
    (["gpt2", "--gpu", "t4", "--method", "lora", "--lora-targets", "c_atn"], 2, ["c_atn", "did you mean 'c_attn'?"]),
    (
        ["meta-llama/Llama-3.1-8B", "--gpu", "t4", "--method", "qlora", "--gpus", 4, "--strategy", "tensor"],
        2,
        ["nf4", "--strategy fsdp"],
    ),
    (
        [*TRAINED_BY_FSDP, "--method", "full", "--optimizer", "paged-adamw-8bit"],
        2,
        ["--optimizer paged-adamw-8bit: FSDP cannot cut its states", "--strategy zero3"],
    ),
    # QLoRA's paper: 4.127 bits a weight of the 68.5e9 in linear layers; two tables of 1.05e9 in 16 bits.
    ([*TRAINED_BY_FSDP, "--method", "qlora"], 2, ["loads all 36.8 GiB of packed weights", "--method lora"]),
    (["TheBloke/Llama-2-7B-GPTQ", "--gpu", "t4", "--quantize", "nf4"], 2, ["quantised already", "gptq"]),
    (
        ["meta-llama/Llama-2-7b-hf", "--gpu", "a100-80", "--engine", "vllm", "--sequence-length", 5000],
        2,
        ["4,096", "max_model_len"],
    ),
    (["google-bert/bert-base-uncased", "--gpu", "t4"], 2, ["encoder", "--task embed"]),
    (["google-t5/t5-small", "--gpu", "t4", "--engine", "vllm"], 2, ["both an encoder and a decoder", "leave --engine"]),
    (["gpt2", "--gpu", "t4", "--new-tokens", 5000], 2, ["--new-tokens: 5,000 new tokens", "fewer than 1,024"]),
    (["gpt2", "--gpu", "t4", "--new-tokens", 1024], 2, ["--new-tokens: 1,024 new tokens", "fewer than 1,024"]),
    (["gpt2", "--gpu", "t4", "--sequence-length", 2, "--new-tokens", 1023], 2, ["--sequence-length", "at most 1:"]),
    (
        ["FacebookAI/xlm-roberta-base", "--gpu", "t4", "--task", "embed", "--sequence-length", 513],
        2,
        ["513 tokens", "at most 512"],
    ),
    (["google/gemma-2-9b", "--gpu", "a100-80", "--engine", "vllm", "--dtype", "float16"], 2, ["--dtype bfloat16"]),
    (["google/gemma-2-9b", "--gpu", "v100-32", "--engine", "vllm", "--dtype", "bfloat16"], 2, ["--dtype float32"]),
    (["gpt2", "--gpu", "t4", "--trace", "--engine", "vllm"], 2, ["--trace", "--engine vllm"]),
]


@pytest.mark.parametrize(("arguments", "status", "says"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_wish_is_refused(arguments: list[object], status: int, says: list[str]) -> None:
    refused(arguments, status, says)


def refused(arguments: list[object], status: int, says: list[str]) -> None:
    result = clusterlm("plan", *arguments)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    for words in says:
        assert words in result.stderr


def test_a_config_without_needed_fields_is_refused_with_their_names(tmp_path: Path) -> None:
    broken = {key: value for key, value in GPT2.items() if key not in ("n_layer", "vocab_size")}
    (tmp_path / "config.json").write_text(json.dumps(broken))
    refused([tmp_path, "--gpu", "t4"], 1, ["config.json", "num_hidden_layers", "vocab_size"])


def test_a_folder_without_a_usable_config_is_refused(tmp_path: Path) -> None:
    refused([tmp_path, "--gpu", "t4"], 1, [str(tmp_path), "config.json"])
    (tmp_path / "config.json").write_text("[1]")
    refused([tmp_path, "--gpu", "t4"], 1, ["config.json"])


def test_an_unknown_architecture_is_refused_and_the_trace_offered(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**GPT2, "model_type": "my_own"}))
    refused([tmp_path, "--gpu", "t4"], 1, ["my_own", "--trace"])


def test_bfloat16_on_a_v100_is_planned_with_a_warning() -> None:
    [note] = planned("gpt2", "--gpu", "v100-32", "--dtype", "bfloat16")["notes"]
    assert "no bfloat16" in note and "--dtype float16" in note
    assert planned("facebook/opt-1.3b", "--gpu", "v100-32")["workload"]["dtype"] == "float16"


def test_vllm_holds_a_float32_checkpoint_in_16_bits() -> None:
    """gpt2's 124,439,808 parameters, and a cache of 12 layers x 2 x 768 numbers a token: 2 bytes each."""
    plan = planned("gpt2", "--gpu", "a100-40", "--engine", "vllm")
    assert plan["workload"]["dtype"] == "bfloat16"
    assert amount(plan["phases"][0]["items"], "weights") == pytest.approx(2 * 124_439_808, rel=0.01)
    assert plan["cache_pool"]["bytes"] / plan["cache_pool"]["tokens"] == pytest.approx(2 * 12 * 2 * 768, rel=0.001)


def test_the_512_tokens_of_roberta_are_the_length_that_is_planned() -> None:
    """Its table has 514 positions, of which the first two are never a token's."""
    plan = planned("FacebookAI/xlm-roberta-base", "--gpu", "t4", "--task", "embed")
    assert plan["workload"]["sequence_tokens"] == plan["model"]["context_tokens"] == 512
    assert planned("FacebookAI/xlm-roberta-base", "--gpu", "t4", "--task", "embed", "--sequence-length", 512)["fits"]


def test_no_16_bit_type_is_advised_where_vllm_has_none() -> None:
    """gemma 2 on a V100, which has no bfloat16: vLLM computes in float32."""
    plan = planned("google/gemma-2-2b", "--gpu", "v100-32", "--engine", "vllm")
    assert plan["workload"]["dtype"] == "float32"
    assert not any("--dtype" in note for note in plan["notes"])


def test_a_length_beyond_the_context_of_rotary_positions_is_planned_with_a_warning() -> None:
    notes = planned("meta-llama/Llama-2-7b-hf", "--gpu", "a100-80", "--sequence-length", 6000)["notes"]
    assert any("4,096" in note for note in notes)


# -------------------------------------------------------------------------------------------------------- the trace
SMALL = {**GPT2, "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 1000}


@pytest.mark.slow
def test_the_trace_stands_beside_the_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    said = text(tmp_path, "--gpu", "t4", "--sequence-length", 128, "--new-tokens", 8, "--dtype", "float32", "--trace")
    assert re.search(r"^TRACED +GIB +COUNTED +DIFFERENCE$", said, re.MULTILINE)
    for phase in ("prefill", "decode", "peak"):
        assert re.search(rf"^{phase} .* %$", said, re.MULTILINE)


@pytest.mark.slow
def test_the_trace_counts_an_architecture_that_the_table_lacks(tmp_path: Path) -> None:
    assert "ctrl" not in known_architectures()
    config = {"model_type": "ctrl", "n_embd": 64, "dff": 128, "n_layer": 2, "n_head": 4, "vocab_size": 500}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = clusterlm("plan", tmp_path, "--gpu", "t4", "--sequence-length", 64, "--new-tokens", 4, "--trace", "--json")
    assert result.exit_code == 0, result.output
    traced = json.loads(result.stdout)["trace"]
    # Embedding 500 x 64, a head of its own with bias; a layer: 4 x (64 x 64 + 64), 2 x 64 x 128 + 128 + 64, 2 x 2 x 64.
    layer = 4 * (64 * 64 + 64) + 2 * 64 * 128 + 128 + 64 + 2 * 2 * 64
    assert traced["parameters"] in (500 * 64 + 500 + 2 * layer + 2 * 64, 2 * 500 * 64 + 500 + 2 * layer + 2 * 64)
    assert traced["peak_bytes"] > traced["static_bytes"]


# ---------------------------------------------------------------------------------------------------- the documents
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "plan.md"
SHOWN = re.findall(r"^\$ clusterlm plan (.*)\n(\w+)", GUIDE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("command", "verdict"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_guides_examples_still_end_as_shown(command: str, verdict: str) -> None:
    """Fits or Does (not fit); the numbers beside move with the memory model."""
    arguments = [argument for argument in shlex.split(command) if argument != "--trace"]
    assert text(*arguments, status=0 if verdict == "Fits" else DOES_NOT_FIT).startswith(verdict)
