"""What the first steps of a training took, beside what the planner says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from clusterlm.cluster import GIB, find_gpu
from clusterlm.cluster.cards import card_of
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.planning.workload import Workload
from clusterlm.runs.attempt import Attempt
from clusterlm.runs.folder import RunFolder
from clusterlm.spec import TrainSpec
from clusterlm.worker.place import Place
from clusterlm.worker.ranks import Ranks
from clusterlm.worker.training.data.steps import Shares, Steps
from clusterlm.worker.training.watch.first_steps import FirstSteps, Planned
from clusterlm.worker.training.watch.forecast import Forecast, fastest_that_fits
from clusterlm.worker.training.watch.gauge import Gauge

LLAMA = "meta-llama/Llama-3.1-8B"
PLANNED = Planned(seconds=2.0, spread=1.25, memory_bytes=20 * GIB, basis="a data sheet")


@pytest.mark.parametrize(
    ("seconds", "gib", "said"),
    [
        (1.9, 19.5, []),
        (2.5, 20.9, []),
        (3.1, 20, ["that is slower than the 1.6 s to 2.5 s of 8 in 10 such plans"]),
        (1.0, 20, ["that is faster than the 1.6 s to 2.5 s of 8 in 10 such plans"]),
        (2.0, 23, ["15% more memory than planned"]),
        (65, 15, ["that is slower than the 1.6 s to 2.5 s of 8 in 10 such plans", "25% less memory than planned"]),
    ],
)
def test_a_step_is_told_beside_the_plan_and_where_it_is_out_of_its_range(
    seconds: float, gib: float, said: list[str]
) -> None:
    line = FirstSteps(3, seconds, 8000, round(gib * GIB), on_gpu=True, planned=PLANNED).line()
    measured, planned, *beyond = line.split("; ")
    shown = "1:05 min" if seconds == 65 else f"{seconds} s"
    assert measured == f"step 3 took {shown}, {8000 / seconds:,.0f} tokens/s, {gib:.1f} GiB of GPU memory at most"
    assert (planned, beyond) == ("the plan said 2.0 s and 20.0 GiB", said)


@pytest.mark.parametrize(
    ("name", "gib", "key"),
    [
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100-SXM-64GB", 63.4, "a100-64"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80"),
        ("NVIDIA GH200 480GB", 94.5, "gh200-96"),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-32"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", 7.6, "rtx4060-laptop"),
        ("AMD Instinct MI250X", 64.0, "mi250x"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4.7, None),
        ("NVIDIA RTX 6000 Ada Generation", 47.5, None),
        ("NVIDIA H100 PCIe", 79.1, None),
        ("NVIDIA GeForce GTX 1080", 8.0, None),
        ("NVIDIA GeForce RTX 3090", 23.7, "rtx3090"),
        ("NVIDIA GeForce RTX 3090 Ti", 23.7, None),
        ("NVIDIA GeForce RTX 4090 D", 23.6, None),
    ],
)
def test_a_card_is_known_by_the_name_of_its_driver(name: str, gib: float, key: str | None) -> None:
    found = card_of(name, round(gib * GIB))
    assert (found.key if found else None) == key


def gauge(gpu: str | None = "h200", processes: int = 1, **workload: Any) -> Gauge:
    config = catalogue_config(LLAMA)
    assert config is not None
    card = find_gpu(gpu) if gpu else None
    peak = card.half_tflops * 1e12 if card else None
    return Gauge(processes, card, shape_from_config(config, LLAMA), Workload(task="train", **workload), peak)


@pytest.mark.parametrize(("method", "each"), [("full", 6), ("lora", 4)])
def test_mfu_is_that_of_the_calculation_by_hand(method: str, each: int) -> None:
    # Llama-3.1-8B: 8.030 billion parameters less the 128,256 x 4,096 of the table of tokens. Attention: two products of
    # 32 layers x 4,096 x two operations for each pair of tokens, of which half attend; thrice, for the backward pass.
    # LoRA of rank 16 on all linear layers trains 41.9 million parameters (PEFT's count). An H200 has 989.5 TFLOPS.
    tokens, count, seconds, processes = 8192, 4, 3.0, 2
    weights, attention = 8.030e9 - 128256 * 4096, 3 * 2 * 2 * 32 * 4096 * tokens / 2
    adapters = 6 * 41.9e6 if method == "lora" else 0
    expected = count * tokens * (each * weights + attention + adapters) / (seconds * processes * 989.5e12)
    found = gauge(processes=processes, method=method).use([tokens] * count, seconds)
    assert found == pytest.approx(expected, rel=2e-3)
    assert gauge(None).use([tokens], seconds) is None, "a CPU has no peak to compare with"


# ------------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize(
    ("gpu", "settings", "name", "said"),
    [
        # 8 billion parameters: 16 bytes of each to train all, 128 GB on each GPU, or an eighth of it; 16 GB for LoRA.
        ("a100-40", {"method": "full"}, "fsdp", "fits 8 x NVIDIA A100"),
        ("h200", {"method": "lora"}, "ddp", "fits 8 x NVIDIA H200"),
        ("a100-40", {"method": "lora"}, "ddp", "by the plan"),
        ("t4", {"method": "full"}, "fsdp", "neither"),
        ("h200", {"method": "lora", "optimizer": "adamw-8bit"}, "ddp", "adamw-8bit"),
        (None, {"method": "full"}, "ddp", "no figures of the GPUs"),
    ],
)
def test_auto_is_the_fastest_strategy_that_fits(
    gpu: str | None, settings: dict[str, Any], name: str, said: str
) -> None:
    settings = {"gradient_checkpointing": True, **settings}
    spec = TrainSpec(model=LLAMA, input="texts.jsonl", output="learned", **settings)
    by_gauge, ranks = gauge(gpu, processes=8, method=spec.method), Ranks(ranks=8, local_ranks=8)
    found, reason = fastest_that_fits(by_gauge, spec, ranks, "sdpa", (1, 2048))
    assert (found, said in reason) == (name, True), reason


def forecast(tmp_path: Path, attempt: Attempt | None = None, **settings: Any) -> Forecast:
    spec = TrainSpec(model=LLAMA, input="texts.jsonl", output="learned", global_batch_size=16, **settings)
    shares = Shares(Steps(numpy.full(64, 2048), 16, 1, None, 0), 2048, 2, 1, is_packed=True)
    place = Place(RunFolder(tmp_path), attempt, Ranks())
    return Forecast(place, spec, gauge(method=spec.method), shares, "single", "sdpa")


def test_the_plan_of_a_training_here_is_that_of_its_own_steps(tmp_path: Path) -> None:
    # LoRA of an 8B on an H200: 16 x 2,048 tokens x 4 x 8 billion operations, of 989 TFLOPS at most, and no less than
    # 30 % of them; 15 GiB of weights in 16 bits, and the rest.
    of_lora = forecast(tmp_path, method="lora", gradient_checkpointing=True)
    planned = of_lora.of(0)
    assert planned is not None
    assert 1.1 < planned.seconds < 3.6 and planned.spread > 1
    assert 15.5 * GIB < planned.memory_bytes < 40 * GIB
    assert of_lora.of(3) is None, "the one step that is left is its first, and slow"
    assert replace(of_lora, gauge=gauge(None)).of(0) is None, "of a CPU nothing is planned"


def test_a_job_is_compared_with_the_plan_it_was_submitted_with(tmp_path: Path) -> None:
    best = {"gpu": "h200", "gpus": 1, "strategy": "single", "batch": 2, "gradient_checkpointing": True}
    best["step"] = {"seconds": 9.0, "tokens_per_second": 8192.0, "spread": 1.3, "basis": "some rows"}
    content = {"best": best, "memory": {"one_gpu": {"allocated": 30 * GIB}}}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    attempt = Attempt(path=tmp_path / "attempts" / "1", began=0.0, job="1")
    as_planned = forecast(tmp_path, attempt, method="lora", gradient_checkpointing=True)
    # 16 sequences of 2,048 tokens.
    assert as_planned.of(0) == Planned(4.0, 1.3, 30 * GIB, "the job's plan: some rows")
    other = forecast(tmp_path, attempt, method="lora", gradient_checkpointing=False).of(0)
    assert other is not None and other.memory_bytes != 30 * GIB, "done in another way than planned"
