"""How long a case takes: against published measurements, calculations by hand, and what physics forbids."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows.conditions import read_rows
from benchmarks.speed_accuracy import as_json, evaluate, score
from clusterlm.cluster import find_gpu, gpus
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.case import Case
from clusterlm.planning.settle import settle
from clusterlm.planning.speed import Links, Pace, load_seconds, pace, usual_links
from clusterlm.planning.wishes import Wishes
from clusterlm.planning.work import trained_of, work_of
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

MEASURED = Path(__file__).parents[3] / "shared" / "facts" / "measured_speed.csv"
LLAMA = "meta-llama/Llama-3.1-8B"


@cache
def shape(name: str) -> ModelShape:
    config = catalogue_config(name)
    assert config is not None
    return shape_from_config(config, name)


def case(name: str = LLAMA, gpu: str = "a100-80", **wishes: Any) -> Case:
    return settle(shape(name), find_gpu(gpu), Wishes(**wishes))


def pace_of(name: str = LLAMA, gpu: str = "a100-80", **wishes: Any) -> Pace:
    return pace(case(name, gpu, **wishes), usual_links(find_gpu(gpu)))


def generating(name: str, gpu: str, software: Software, strategy: Strategy | None = None, **workload: Any) -> Pace:
    work = Workload(task="generate", software=software, **workload)
    return pace(Case(shape(name), work, strategy or Strategy(), find_gpu(gpu)), usual_links(find_gpu(gpu)))


# ---- measurements ---------------------------------------------------------------------------------------------------


def test_qwen_7b_by_transformers_is_as_fast_as_its_makers_measured() -> None:
    # Qwen2.5 speed benchmark, transformers, one A100-80: 40.38 tokens/s from a prompt of one token. No constant of ours
    # has seen a model of this size of that table.
    found = generating(
        "Qwen/Qwen2.5-7B-Instruct", "a100-80", Software(version=(4, 45)), sequence_tokens=1, new_tokens=2048
    )
    assert found.tokens_per_second == pytest.approx(40.38, rel=0.15)


def test_snellius_examples_of_2022_lie_within_the_spread() -> None:
    # Snellius, A100-40, accelerate and transformers 4.24: galactica-6.7b makes 75 tokens of 4 texts in 5.5 s; opt-30b,
    # whose 60 GB are laid over two cards, 75 tokens in 8 s.
    old = Software(version=(4, 24))
    common: dict[str, Any] = {"dtype": "float16", "sequence_tokens": 22, "new_tokens": 75}
    galactica = generating("facebook/galactica-6.7b", "a100-40", old, batch=4, **common)
    assert galactica.step_seconds / galactica.spread <= 5.5 <= galactica.step_seconds * galactica.spread
    two = Strategy(gpus=2, gpus_per_node=4, pipeline_degree=2)
    opt = generating("facebook/opt-30b", "a100-40", old, two, **common)
    assert opt.step_seconds / opt.spread <= 8 <= opt.step_seconds * opt.spread


def test_published_speeds_are_predicted_within_15_percent_and_nearly_all_within_a_factor_1_5() -> None:
    if not MEASURED.exists():
        pytest.skip("optional: needs the table of published speeds, shared/facts/measured_speed.csv")
    found = as_json(evaluate(MEASURED))
    assert found["all"]["median_error"] <= 0.15
    assert found["all"]["within_1.5"] >= 0.90
    assert found["all"]["inside_spread"] >= 0.90
    assert found["coverage"] >= 0.95


def test_a_row_that_says_too_little_has_a_reason_and_no_prediction() -> None:
    row = dict.fromkeys(("source_key", "model", "hf_id", "task", "engine", "dtype", "seq_len", "n_gpus", "gpu"), "")
    row |= {"tokens_per_s_total": "12", "tokens_per_s_per_gpu": ""}
    found = score(row | {"task": "inference", "hf_id": LLAMA, "engine": "vLLM", "gpu": "abacus"})
    assert found.predicted is None and "abacus" in found.reason


def test_rows_with_exchanged_conditions_end_in_a_prediction_or_a_reason() -> None:
    if not MEASURED.exists():
        pytest.skip("optional: needs the table of published speeds, shared/facts/measured_speed.csv")
    rows, chance = read_rows(MEASURED), random.Random(0)
    strange = ("", "0", "-1", "variable", "1,024", "nan", "MI250X", "foo/bar-7B", "int8", "Qwen/Qwen3-8B")
    columns = ("hf_id", "model", "task", "engine", "dtype", "seq_len", "gen_len", "batch", "n_gpus", "gpu", "note")
    for _ in range(1000):
        row = dict(chance.choice(rows))
        for column in chance.sample(columns, 2):
            row[column] = chance.choice((chance.choice(strange), chance.choice(rows)[column]))
        found = score(row)
        assert found.reason or (found.predicted and 0 < found.predicted < 1e9), row


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_work_of_llama_8b_is_that_of_its_matrices() -> None:
    # 32 layers of (4096 x 4096 x 2 + 4096 x 1024 x 2) + 3 x 4096 x 14336; the head 128256 x 4096.
    work = work_of(shape(LLAMA), Workload())
    blocks = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert work.forward_flops(1) == 2 * blocks
    assert work.head_flops(1) == 2 * 128256 * 4096
    # All queries with all keys up to their own place: 2 x 2 x 4096 x 1000 x 1000 / 2 in each layer.
    assert work.attention_flops(1000) == 32 * 2 * 2 * 4096 * 1000 * 1000 / 2
    # The table of tokens is read by rows, all else whole, two bytes each: 8.03e9 parameters less 0.53e9.
    assert work.weight_bytes(1) == pytest.approx(2 * (8.030e9 - 0.5253e9), rel=1e-3)


def test_a_mixture_reads_only_the_experts_that_its_batch_visits() -> None:
    # Mixtral: 2 of 8 experts for each token; 64 tokens miss one with (6/8)^64 = 1e-8.
    work = work_of(shape("mistralai/Mixtral-8x7B-v0.1"), Workload())
    experts = 32 * 3 * 4096 * 14336 * 2
    assert work.weight_bytes(64) - work.weight_bytes(1) == pytest.approx(6 * experts, rel=1e-4)
    assert work.forward_flops(1) == pytest.approx(2 * (12.88e9 - 2 * 32000 * 4096), rel=0.01)


def test_training_without_overheads_cannot_beat_the_data_sheet() -> None:
    # 6 N operations a token at 312 TFLOPS: 8.03e9 x 6 = 48 GFLOP, 6476 tokens/s at the most.
    found = pace_of(task="train", gradient_checkpointing=False, micro_batch=16)
    assert 0.3 * 6476 < found.tokens_per_second < 0.75 * 6476


def test_reading_the_files_and_copying_them_is_the_least_that_loading_takes() -> None:
    links = Links(gpu_gb_per_second=300, node_gb_per_second=25, storage_gb_per_second=2)
    # 16.06 GB at 2 GB/s.
    slow, fast = load_seconds(case(), links), load_seconds(case(), replace(links, storage_gb_per_second=20))
    assert slow - fast == pytest.approx(16.06 / 2 - 16.06 / 20, rel=0.01)
    assert fast > 30


def test_many_nodes_read_no_faster_than_the_file_system_gives() -> None:
    # 16.06 GB: a node at 2 GB/s takes 8 s; 1,024 nodes together at 500 GB/s 33 s, at 100 GB/s 164 s.
    def seconds(nodes: int, all_storage_gb_per_second: float) -> float:
        links = replace(Links(300, 25, 2), all_storage_gb_per_second=all_storage_gb_per_second)
        return load_seconds(case(task="train", gpus=4 * nodes, gpus_per_node=4), links)

    assert seconds(16, 500) == seconds(1, 500)
    assert seconds(1024, 500) - seconds(1, 500) == pytest.approx(1024 * 16.06 / 500 - 16.06 / 2, rel=0.01)
    assert seconds(1024, 100) - seconds(1024, 500) == pytest.approx(1024 * 16.06 * (1 / 100 - 1 / 500), rel=0.01)


# ---- what physics forbids -------------------------------------------------------------------------------------------


def test_parts_add_up_to_the_step() -> None:
    for wishes in ({"batch": 4}, {"task": "train", "gpus": 4}, {"task": "embed"}, {"task": "train", "method": "qlora"}):
        found = pace_of(**wishes)
        assert sum(seconds for _, seconds in found.parts) == pytest.approx(found.step_seconds)
        assert all(seconds >= 0 for _, seconds in found.parts)
        assert found.spread >= 1 and found.basis


@pytest.mark.parametrize("wishes", [{"task": "train"}, {"task": "train", "method": "lora", "gpus": 4}])
def test_a_larger_micro_batch_is_never_slower(wishes: dict[str, Any]) -> None:
    speeds = [pace_of(micro_batch=batch, **wishes).tokens_per_second for batch in (1, 2, 4, 8, 16, 64)]
    assert speeds == sorted(speeds)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize("name", [LLAMA, "Qwen/Qwen3-30B-A3B", "Qwen/Qwen2.5-0.5B"])
def test_more_texts_at_once_are_never_slower_in_all_and_never_faster_each(engine: str, name: str) -> None:
    found = [pace_of(name, engine=engine, batch=batch, new_tokens=64) for batch in (1, 2, 8, 32, 128, 512)]
    speeds, steps = [one.tokens_per_second for one in found], [one.step_seconds for one in found]
    assert speeds == sorted(speeds) and steps == sorted(steps)


def test_a_gpu_with_more_of_everything_is_faster() -> None:
    for wishes in ({"batch": 8}, {"task": "train"}, {"task": "embed"}):
        speeds = [pace_of(gpu=gpu, **wishes).tokens_per_second for gpu in ("t4", "v100-32", "a100-80", "h200")]
        assert speeds == sorted(speeds)


def test_checkpointing_costs_one_more_forward_pass() -> None:
    with_it = pace_of(task="train", micro_batch=8, gradient_checkpointing=True)
    without = pace_of(task="train", micro_batch=8, gradient_checkpointing=False)
    assert with_it.step_seconds / without.step_seconds == pytest.approx(4 / 3, rel=0.05)


def test_layers_laid_over_gpus_take_turns() -> None:
    one = pace_of(batch=8)
    four = pace_of(batch=8, gpus=4, strategy="pipeline")
    assert four.step_seconds == pytest.approx(one.step_seconds, rel=0.01)
    copies = pace_of(batch=8, gpus=4, strategy="ddp")
    assert copies.tokens_per_second == pytest.approx(4 * one.tokens_per_second, rel=0.01)


def test_tensor_parallel_is_faster_than_one_gpu_and_slower_than_as_many_copies() -> None:
    one, two = pace_of(batch=8, engine="vllm"), pace_of(batch=8, engine="vllm", gpus=2, strategy="tensor")
    assert one.step_seconds / 2 < two.step_seconds < one.step_seconds


def test_tensor_and_pipeline_parallel_over_nodes_pay_for_both_by_the_clusters_links() -> None:
    # Hidden states of 2048 tokens: 2048 x 4096 x 2 B; links reach 60 %. Tensor 4 in a node: 64 all-reduces of 3/4
    # twice; one hand-over to the stage on the other node. Tensor 8 over two nodes: 64 of 7/8 twice, by the network.
    def communication(gpu_gb_per_second: float, node_gb_per_second: float, tensor: int, stages: int) -> float:
        strategy = Strategy(gpus=8, gpus_per_node=4, tensor_degree=tensor, pipeline_degree=stages)
        work = Workload(task="embed", sequence_tokens=2048, software=Software(engine="vllm", version=(0, 19)))
        asked = Case(shape(LLAMA), work, strategy, find_gpu("a100-80"))
        return dict(pace(asked, Links(gpu_gb_per_second, node_gb_per_second, 2)).parts)["communication"]

    states = 2048 * 4096 * 2 / 0.6
    slower = communication(300, 5, 4, 2) - communication(300, 50, 4, 2)
    assert slower == pytest.approx(states * (1 / 5e9 - 1 / 50e9))
    slower = communication(100, 50, 4, 2) - communication(300, 50, 4, 2)
    assert slower == pytest.approx(64 * 1.5 * states * (1 / 100e9 - 1 / 300e9))
    slower = communication(300, 5, 8, 1) - communication(300, 50, 8, 1)
    assert slower == pytest.approx(64 * 1.75 * states * (1 / 5e9 - 1 / 50e9))


def test_a_step_is_named_by_what_bounds_it() -> None:
    # 16 texts of 1024 tokens and 8B parameters: 262 TFLOP, a second of an A100, where reading the weights takes 8 ms;
    # the 16 GFLOP of one token take 0.1 ms.
    passes, alone = dict(pace_of(task="embed", batch=16, sequence_length=1024).parts), dict(pace_of(batch=1).parts)
    assert passes["compute"] > 0.6 * sum(passes.values()) > 0
    assert alone["compute"] < 0.02 * alone["memory"]
    many = dict(pace_of("Qwen/Qwen2.5-0.5B", engine="vllm", batch=1024, sequence_length=16).parts)
    assert many["compute"] > 0.05 * sum(many.values())


def test_a_slower_network_slows_sharded_training_over_nodes_and_nothing_else() -> None:
    def seconds(node_gb_per_second: float, gpus_per_node: int) -> float:
        asked = case(task="train", gpus=8, gpus_per_node=gpus_per_node)
        return pace(asked, Links(300, node_gb_per_second, 2)).step_seconds

    assert seconds(5, 4) > 1.5 * seconds(100, 4)
    assert seconds(5, 8) == seconds(100, 8)


def test_accumulation_takes_each_micro_batch_its_time_and_one_optimizer_step() -> None:
    alone = pace_of(task="train", micro_batch=2, batch=2)
    four = pace_of(task="train", micro_batch=2, batch=8)
    assert alone.step_seconds * 3.3 < four.step_seconds < alone.step_seconds * 4
    assert four.tokens_per_second > alone.tokens_per_second


def test_offloading_is_slower() -> None:
    common = {"task": "train", "gpus": 4, "strategy": "zero3"}
    speeds = [pace_of(offload=offload, **common).tokens_per_second for offload in ("nvme", "cpu", "none")]
    assert speeds == sorted(speeds) and speeds[0] < speeds[2] / 1.5


def test_eight_bits_by_bitsandbytes_are_slower_and_four_bits_served_are_faster() -> None:
    # LLM.int8's authors: 15 to 23 % slower at 176 billion parameters, more for small models.
    plain = pace_of(batch=1).tokens_per_second
    assert pace_of(batch=1, quantize="int8").tokens_per_second < 0.85 * plain
    served = pace_of(batch=1, engine="vllm").tokens_per_second
    assert pace_of(batch=1, engine="vllm", quantize="awq-int4").tokens_per_second > 1.3 * served


def test_deepspeeds_optimizer_moves_the_float32_states_that_its_memory_is_counted_with() -> None:
    # AdamW reads a parameter, its gradient and both moments and writes all but the gradient, 28 B in float32. DeepSpeed
    # besides casts the 16-bit gradient up (2 + 4 B) and the new weight down (4 + 2 B). An eighth, at 0.6 of 2039 GB/s.
    def optimizer(strategy: str) -> float:
        return dict(pace_of(task="train", gpus=8, strategy=strategy).parts)["optimizer"]

    each = 8.03e9 / 8 / (0.6 * 2039e9)
    assert optimizer("fsdp") == pytest.approx(28 * each, rel=1e-3)
    assert optimizer("zero3") == optimizer("zero2") == optimizer("zero1") == pytest.approx(40 * each, rel=1e-3)
    assert optimizer("ddp") == pytest.approx(8 * 28 * each, rel=1e-3)


@pytest.mark.parametrize("gpus_per_node", [8, 4])
@pytest.mark.parametrize("batch", [32, 256])
def test_zero_takes_about_as_long_as_what_does_the_same_in_torch(gpus_per_node: int, batch: int) -> None:
    def seconds(strategy: str) -> float:
        wishes = {"gpus": 8, "gpus_per_node": gpus_per_node, "micro_batch": 4, "batch": batch}
        asked = case(task="train", strategy=strategy, **wishes)
        return pace(asked, Links(300, 100, 2)).step_seconds

    assert 1 <= seconds("zero3") / seconds("fsdp") < 1.03
    for zero in ("zero1", "zero2"):
        assert seconds(zero) == pytest.approx(seconds("ddp"), rel=0.05)
    # Gradients that are scattered after each micro-batch cannot be quicker than once a step.
    assert seconds("zero1") <= seconds("zero2")


def test_lora_is_faster_than_training_all_and_trains_the_same_tokens() -> None:
    full, lora = (pace_of(task="train", method=method, micro_batch=4) for method in ("full", "lora"))
    assert full.tokens_per_second < lora.tokens_per_second < 2 * full.tokens_per_second


def test_float32_without_autocast_pays_for_its_products() -> None:
    plain, whole = pace_of(task="train", micro_batch=4), pace_of(task="train", micro_batch=4, dtype="float32")
    assert whole.tokens_per_second < plain.tokens_per_second / 4


def test_the_spread_is_wider_where_nothing_was_measured() -> None:
    measured = pace_of(engine="vllm")
    elsewhere = pace_of(engine="vllm", gpu="mi300x")
    assert elsewhere.spread > measured.spread
    assert "A100" in measured.basis and "MI300X" in elsewhere.basis


def test_what_no_measurement_of_the_engine_has_widens_the_spread_and_is_named() -> None:
    # DeepSpeed 1.3, transformers 5's grouped experts 1.3 and several nodes 1.25: nothing of them is among the Trainer's
    # rows, whose mixtures are of transformers 4 and whose GPUs are of one node.
    moe: dict[str, Any] = {"name": "Qwen/Qwen3-30B-A3B", "task": "train"}
    usual, strange = pace_of(task="train"), pace_of(**moe, strategy="zero2", gpus=64, gpus_per_node=4)
    assert strange.spread == pytest.approx(usual.spread * 1.3 * 1.3 * 1.25)
    assert strange.basis == usual.basis + ", without DeepSpeed, mixtures by transformers 5 or several nodes"
    most = pace_of(**moe, gpu="mi250x", strategy="zero3", gpus=64, gpus_per_node=4, offload="cpu")
    assert most.spread == 3 and most.basis.endswith("several nodes, offloading or AMD")


def test_what_was_measured_does_not_widen_the_spread() -> None:
    # Mixtures by ScatterMoE, tensor parallel by vLLM; and copies of a model on several nodes, which know nothing of one
    # another, are as certain as one.
    scatter = Workload(task="train", software=Software(engine="scattermoe", version=(1,)))
    asked = Case(shape("mistralai/Mixtral-8x7B-v0.1"), scatter, Strategy(), find_gpu("a100-80"))
    assert "without" not in pace(asked, usual_links(asked.gpu)).basis
    assert "without" not in pace_of(engine="vllm", gpus=2, strategy="tensor").basis
    assert "without" not in pace_of(gpus=16, gpus_per_node=4, strategy="ddp").basis


def test_every_gpu_has_speeds_and_a_source() -> None:
    for gpu in gpus().values():
        assert gpu.speed_source and gpu.half_tflops >= gpu.float32_tflops * 0.9, gpu.key
        assert gpu.memory_gb_per_second > gpu.gpu_link_gb_per_second > 0, gpu.key
        assert 10 <= gpu.host_link_gb_per_second < 450, gpu.key


def test_half_a_card_of_amd_trains_as_fast_as_mosaicml_measured() -> None:
    # MPT-7B by llm-foundry: an MI250 0.73 of an A100-80 (June 2023), 1.13 times as much with ROCm 5.7 and
    # FlashAttention 2 (October 2023), the MI250X 383 TFLOPS where the MI250 has 362: a GCD 0.436. Its slower memory may
    # show.
    def tokens_per_second(gpu: str) -> float:
        work = Workload(task="train", batch=8, software=Software(engine="llm-foundry"))
        asked = Case(shape("meta-llama/Llama-2-7b-hf"), work, Strategy(), find_gpu(gpu))
        return pace(asked, usual_links(find_gpu(gpu))).tokens_per_second

    assert tokens_per_second("mi250x") / tokens_per_second("a100-80") == pytest.approx(0.436, rel=0.1)


def test_what_follows_from_a_shape_is_counted_once_and_of_each_shape_by_itself() -> None:
    one, other = shape(LLAMA), replace(shape(LLAMA))
    assert work_of(one, Workload()) is work_of(one, Workload(batch=7))
    assert work_of(one, Workload()) == work_of(other, Workload()) and work_of(one, Workload()) is not work_of(
        other, Workload()
    )
    assert trained_of(one, Workload(method="lora")) == trained_parameters(one, Workload(method="lora"))


def test_a_thousand_predictions_take_less_than_a_tenth_of_a_second() -> None:
    cases = [case(batch=1 + index % 7) for index in range(50)]
    cases += [case(task="train", method="qlora", gpus=4, micro_batch=1 + index % 7) for index in range(50)]
    links = usual_links(cases[0].gpu)
    for asked in cases:
        pace(asked, links)
    best = min(_seconds(cases, links) for _ in range(5))
    assert best < 100 * 100e-6


def _seconds(cases: list[Case], links: Links) -> float:
    begun = time.perf_counter()
    for asked in cases:
        pace(asked, links)
    return time.perf_counter() - begun
