"""`clusterlm train`: a model and texts in, the model that has learned them out."""

from __future__ import annotations

import json
import math
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clusterlm.cluster import GIB, find_gpu
from clusterlm.worker.training import job
from clusterlm.worker.training.watch.gauge import Gauge, Memory
from tests.cli.running import clusterlm, lines_of
from tests.training.lessons import TEXTS, losses, same, weights

SETTINGS = ("--learning-rate", 0.01, "--global-batch-size", 16, "--epochs", 2)


def test_what_is_learned_is_better_known_and_any_tool_loads_it(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    done = clusterlm("train", model, texts, "-o", output, *SETTINGS, "--eval", texts)
    assert done.exit_code == 0, done.output
    held_out = lines_of(Path(f"{output}.run") / "held_out.jsonl")
    assert [one["step"] for one in held_out] == [0, 12]
    assert held_out[1]["loss"] < held_out[0]["loss"] - 0.3, "nats per token"
    steps = lines_of(Path(f"{output}.run") / "attempts" / "1" / "steps.jsonl")
    # In KiB, of this process, in which it was trained: grown since by what comes behind the steps.
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 0.5 * most < steps[0]["memory_bytes"] <= steps[-1]["memory_bytes"] <= most
    assert [steps[-1][name] for name in ("seconds_left", "mfu", "gpu_hours", "reserved_bytes")] == [0, None, None, None]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("step 3 took ")]
    assert "of main memory at most" in line and "the plan" not in line, "which knows GPUs alone"
    shown = json.loads(clusterlm("runs", "show", output, "--json").stdout)
    first = shown["first_steps"]
    assert (first["said"], first["step"], first["tokens"]) == (line, 3, steps[2]["tokens"])
    assert f"{first['tokens'] / first['seconds']:,.0f} tokens/s" in line and first["planned"] is None
    assert (shown["memory_bytes"], shown["gpu_hours"]) == (steps[-1]["memory_bytes"], None)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    ids = tokenizer(TEXTS[0] + tokenizer.eos_token, return_tensors="pt").input_ids
    before = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        assert loaded(ids, labels=ids).loss < before(ids, labels=ids).loss
    assert (output / "generation_config.json").exists()
    card = (output / "README.md").read_text()
    for words in (
        f"All weights of `{model.name}`",
        "trained on `texts.jsonl`",
        "96 examples: 96 sequences",
        f"{held_out[1]['loss']:.4f} nats per token (perplexity {math.exp(held_out[1]['loss']):,.2f})",
        "| 12 | 2.00 |",
        "learning_rate = 0.01",
        f"| first steps | {line} |",
        "clusterlm generate learned",
        'from_pretrained("learned")',
        f"torch {torch.__version__}",
    ):
        assert words in card
    assert str(tmp_path) not in card, "what is published tells nothing of this machine"
    answers = tmp_path / "answers.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the\n")
    assert clusterlm("generate", output, prompts, "-o", answers, "--max-new-tokens", 4).exit_code == 0
    assert len(lines_of(answers)) == 1


def test_the_loss_told_of_the_first_step_is_that_of_its_texts(model: Path, texts: Path, tmp_path: Path) -> None:
    """All texts in one step: the mean over all tokens that are predicted, each text by itself."""
    output = tmp_path / "learned"
    asked = ("--global-batch-size", 96, "--max-steps", 1, "--learning-rate", 1e-9)
    assert clusterlm("train", model, texts, "-o", output, *asked).exit_code == 0
    assert losses(output)[1] == pytest.approx(loss_of_the_texts(model), rel=1e-5)


def test_on_gpus_each_step_is_measured_against_them(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rehearsed on a CPU that claims to be an H200, of which the peak is 10 GFLOPS."""
    of_cpu = job.gauge_of

    def gauge_of(*given: Any) -> Gauge:
        return InDisguise(1, find_gpu("h200"), of_cpu(*given).shape, of_cpu(*given).workload, 10e9)

    monkeypatch.setattr(job, "gauge_of", gauge_of)
    output = tmp_path / "learned"
    done = clusterlm("train", model, texts, "-o", output, "--global-batch-size", 16, "--max-steps", 4)
    assert done.exit_code == 0, done.output
    steps = lines_of(Path(f"{output}.run") / "attempts" / "1" / "steps.jsonl")
    # 2 layers: q and o 64x64, k and v 64x32, three of the MLP 64x128; and the head. Attention is small beside them.
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + AutoTokenizer.from_pretrained(model).vocab_size * 64
    for one in steps:
        assert one["mfu"] == pytest.approx(6 * weights * one["tokens"] / one["seconds"] / 10e9, rel=0.1)
        assert (one["memory_bytes"], one["reserved_bytes"]) == (3 * GIB, 4 * GIB)
    assert 0 < steps[0]["gpu_hours"] < steps[-1]["gpu_hours"]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("step 3 took ")]
    assert re.search(r" tokens/s, 3\.0 GiB of GPU memory at most; the plan said 0\.\d+ s and [\d.]+ MiB; ", line), line
    assert line.endswith("% more memory than planned")
    shown = json.loads(clusterlm("runs", "show", output, "--json").stdout)
    assert shown["gpu_hours"] == pytest.approx(steps[-1]["gpu_hours"], abs=1e-4)
    assert shown["mfu"] == steps[-1]["mfu"]


class InDisguise(Gauge):
    @property
    def on_gpu(self) -> bool:
        return True

    def memory(self) -> Memory:
        return Memory(3 * GIB, 4 * GIB)

    def begin(self) -> None:
        """There is nothing to forget."""


def loss_of_the_texts(model: Path) -> float:
    """As transformers computes it, each text by itself: nats per token that is predicted."""
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text + tokenizer.eos_token, return_tensors="pt").input_ids
        with torch.no_grad():
            total += float(loaded(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


@pytest.mark.parametrize("way", [("--no-packing",), ("--micro-batch", 1), ("--micro-batch", 50)], ids=str)
def test_packing_and_micro_batches_change_no_loss(
    model: Path, texts: Path, tmp_path: Path, way: tuple[object, ...]
) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    assert clusterlm("train", model, texts, "-o", plain, *SETTINGS).exit_code == 0
    assert clusterlm("train", model, texts, "-o", other, *SETTINGS, *way).exit_code == 0
    assert losses(other) == pytest.approx(losses(plain), abs=1e-4)


def test_an_adapter_changes_little_and_learns(model: Path, texts: Path, tmp_path: Path) -> None:
    output, merged = tmp_path / "adapter", tmp_path / "merged"
    settings = (*SETTINGS, "--method", "lora", "--lora-rank", 4)
    done = clusterlm("train", model, texts, "-o", output, *settings, "--eval", texts)
    assert done.exit_code == 0, done.output
    before, after = (one["loss"] for one in lines_of(Path(f"{output}.run") / "held_out.jsonl"))
    assert after < before - 0.2
    adapter = weights(output)
    assert all("lora_" in name for name in adapter)
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert clusterlm("train", model, texts, "-o", merged, *settings, "--merge").exit_code == 0
    assert not (merged / "adapter_config.json").exists()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        of_adapter = AutoModelForCausalLM.from_pretrained(output)(ids).logits
        of_merged = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    assert torch.allclose(of_adapter, of_merged, atol=1e-4)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the\n")
    for folder in (output, merged):
        answers = tmp_path / f"{folder.name}.jsonl"
        assert clusterlm("generate", folder, prompts, "-o", answers, "--max-new-tokens", 8).exit_code == 0
    assert lines_of(tmp_path / "adapter.jsonl")[0]["text"] == lines_of(tmp_path / "merged.jsonl")[0]["text"]


def test_held_out_texts_are_looked_at_as_often_as_asked(model: Path, texts: Path, tmp_path: Path) -> None:
    output, plain = tmp_path / "learned", tmp_path / "plain"
    done = clusterlm("train", model, texts, "-o", output, *SETTINGS, "--eval-fraction", 0.25, "--eval-steps", 4)
    assert done.exit_code == 0, done.output
    held_out = lines_of(Path(f"{output}.run") / "held_out.jsonl")
    assert [one["step"] for one in held_out] == [0, 4, 8, 10], "72 of 96 texts are learned: 10 steps in two epochs"
    assert "72 examples: 72 sequences" in done.stderr
    assert f"perplexity {math.exp(held_out[-1]['loss']):,.2f}" in done.stderr
    assert clusterlm("train", model, texts, "-o", plain, *SETTINGS, "--eval-fraction", 0.25).exit_code == 0
    assert losses(plain) == losses(output), "to look changes nothing"


def test_an_adapter_is_learned_beside_weights_of_four_bits(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    settings = (*SETTINGS, "--method", "qlora", "--lora-rank", 4, "--eval", texts)
    done = clusterlm("train", model, texts, "-o", output, *settings)
    assert done.exit_code == 0, done.output
    before, after = (one["loss"] for one in lines_of(Path(f"{output}.run") / "held_out.jsonl"))
    assert after < before - 0.2
    assert 1e-3 < abs(before - loss_of_the_texts(model)) < 1, "4 bits are nearly the weights"
    # 7 linear layers of each of 2: q 64x64, k and v 64x32, o 64x64, gate and up 64x128, down 128x64; rank 4.
    trained = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    parameters = AutoModelForCausalLM.from_pretrained(model).num_parameters() + trained
    assert f"{trained:,} of {parameters:,}" in (output / "README.md").read_text()
    assert all("lora_" in name for name in weights(output))


def test_the_same_command_twice_trains_once(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    assert clusterlm("train", model, texts, "-o", output, *SETTINGS).exit_code == 0
    first = weights(output)
    again = clusterlm("train", model, texts, "-o", output, *SETTINGS)
    assert (again.exit_code, "done already" in again.stderr) == (0, True), again.output
    fresh = clusterlm("train", model, texts, "-o", output, *SETTINGS, "--restart")
    assert fresh.exit_code == 0, fresh.output
    assert same(weights(output), first)
