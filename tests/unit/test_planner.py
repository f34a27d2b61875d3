"""Which way, where, how long, at what price: the planner through its door."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from clusterlm.cluster import Cluster, find_gpu
from clusterlm.cluster.files import find_cluster, shipped_clusters
from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.model.catalogue import catalogue_names
from clusterlm.model.find import find_model
from clusterlm.planning.candidates import Candidate, Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.settle import settle
from clusterlm.planning.speed import load_seconds, pace
from clusterlm.planning.wishes import Wishes

GIB = 2**30


@cache
def search(model: str) -> Search:
    return Search(find_model(model))


def planned(model: str, cluster: str | Cluster, **wishes: object) -> Plan:
    site = find_cluster(cluster) if isinstance(cluster, str) else cluster
    return plan(search(model), site, Wishes(**wishes))  # type: ignore[arg-type]


def best(model: str, cluster: str | Cluster, **wishes: object) -> Candidate:
    found = planned(model, cluster, **wishes).best
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------- the documents' examples
def test_gpt_neo_is_fine_tuned_in_full_on_one_gpu_of_puhti() -> None:
    """CSC's guide: 1.37 x 4 x 5 = 27.4 GB, which is less than the 32 GB of a V100."""
    one = best("EleutherAI/gpt-neo-1.3B", "puhti", method="full", gpus=1)
    assert one.case.gpu.key == "v100-32"
    assert one.needed < 32e9


@pytest.mark.parametrize("gpus", [4, 8])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_guides_scripts_for_one_and_two_nodes_of_puhti_fit(gpus: int, strategy: str) -> None:
    """run-finetuning-puhti-gpu4, gpu8, and the same with accelerate (FSDP)."""
    one = best("EleutherAI/gpt-neo-1.3B", "puhti", method="full", gpus=gpus, strategy=strategy)
    assert one.nodes == gpus // 4


def test_lora_needs_fewer_gpus_than_full_fine_tuning_on_puhti() -> None:
    """CSC's guide: adapters are for a model that fits when its training does not."""
    full, lora = (planned("facebook/galactica-6.7b", "puhti", method=method, gpus=1) for method in ("full", "lora"))
    assert full.best is None
    assert lora.best is not None


def test_llama_2_runs_on_the_two_rtx_6000_of_soundbendor() -> None:
    """The tutorial: float32 weights (4 bytes) of 7 billion parameters are more than one of the two cards has."""
    wishes = {"task": "generate", "gpu": "rtx6000", "dtype": "float32"}
    one = best("NousResearch/Llama-2-7b-hf", "soundbendor", **wishes)
    assert (one.case.strategy.gpus, one.way.strategy) == (2, "pipeline")
    assert planned("NousResearch/Llama-2-7b-hf", "soundbendor", **wishes, gpus=1).best is None


def test_llama_2_in_16_bits_runs_on_one_card_of_soundbendor() -> None:
    assert best("NousResearch/Llama-2-7b-hf", "soundbendor", task="generate", gpus=1, dtype="float16")


@pytest.mark.parametrize(
    ("model", "least_gpus"),
    [
        ("facebook/galactica-6.7b", 1),  # 13.4 GB in 16 bits
        ("EleutherAI/gpt-neox-20b", 2),  # 41 GB
        ("facebook/opt-30b", 2),  # 60 GB
    ],
)
def test_the_posts_models_run_on_the_a100_nodes_of_snellius(model: str, least_gpus: int) -> None:
    found = planned(model, "snellius", task="generate", gpu="a100")
    fewest = min(one.case.strategy.gpus for one in found.candidates)
    assert fewest == least_gpus


def test_bloom_in_8_bits_takes_8_a100_of_40_gb_and_16_as_it_is() -> None:
    """The Snellius post, after the bitsandbytes blog: 8 instead of 16."""
    shape, card = find_model("bigscience/bloom"), find_gpu("a100-40")
    short = {"task": "generate", "strategy": "pipeline", "sequence_length": 32, "new_tokens": 50}

    def fits(gpus: int, quantize: str | None) -> bool:
        wishes = Wishes(**short, gpus=gpus, gpus_per_node=gpus, quantize=quantize)  # type: ignore[arg-type]
        return settle(shape, card, wishes).on_gpu.needed <= card.memory_bytes

    assert fits(8, "int8") and fits(16, None)
    assert not fits(8, None)


def test_bloom_in_8_bits_fits_a_node_of_8_a100() -> None:
    one = best("bigscience/bloom", "karolina", task="generate", quantize="int8", nodes=1)
    assert one.nodes == 1


def test_mistral_is_fine_tuned_with_fsdp_on_two_nodes_of_vsc5() -> None:
    """The slides' job: --nodes=2, --gres=gpu:2, partition zen3_0512_a100x2."""
    wishes = {"method": "full", "strategy": "fsdp", "nodes": 2, "partition": "zen3_0512_a100x2"}
    one = best("mistralai/Mistral-7B-v0.1", "vsc5", **wishes)
    assert (one.case.strategy.gpus, one.place.node.gpus) == (4, 2)


def test_mistral_in_full_does_not_fit_one_node_of_vsc5() -> None:
    """The slides: I'm too big for this GPU."""
    found = planned("mistralai/Mistral-7B-v0.1", "vsc5", method="full", nodes=1)
    assert not found.candidates or found.candidates[0].case.strategy.offload != "none"


# ------------------------------------------------------------------------------------------------------------ ranking
def test_the_cheapest_goes_first() -> None:
    """But for prices that differ by less than 2 %, and for ways that leave too little room."""
    found = planned("meta-llama/Llama-3.1-8B", "lumi", method="lora")
    prices = [one.billing_units for one in found.candidates if not one.tight and one.duration.jobs == 1]
    assert prices[0] <= 1.021 * min(price for price in prices if price is not None)


def test_the_fastest_goes_first_where_it_is_preferred() -> None:
    found = planned("meta-llama/Llama-3.1-8B", "lumi", method="lora", prefer="fastest")
    times = [one.duration.middle for one in found.candidates if not one.tight]
    assert times[0] <= 1.021 * min(times)
    assert times[0] < best("meta-llama/Llama-3.1-8B", "lumi", method="lora").duration.middle


def test_the_soonest_asks_for_one_node_where_one_is_enough() -> None:
    assert best("meta-llama/Llama-3.1-8B", "lumi", method="full", prefer="soonest").nodes == 1


def test_all_ways_of_training_have_the_same_global_batch() -> None:
    found = planned("mistralai/Mistral-7B-v0.1", "mahti", method="lora", batch=32)
    assert {one.case.global_batch for one in found.candidates} == {32}


def test_a_micro_batch_that_was_asked_for_sets_the_step_and_not_the_number_of_gpus() -> None:
    """64 is no multiple of 3; 96 is, for up to 32 GPUs."""
    found = planned("gpt2", "clariden", method="lora", micro_batch=3)
    assert {one.case.global_batch for one in found.candidates} == {96}
    assert found.best is not None and found.best.nodes == 1


def test_a_large_micro_batch_is_one_step_of_one_gpu() -> None:
    one = best("gpt2", "lumi", method="lora", micro_batch=128, sequence_length=128, partition="small-g")
    assert (one.case.strategy.gpus, one.case.global_batch) == (1, 128)


def test_the_last_step_is_a_whole_one() -> None:
    """1,000 tokens are one step of 64 sequences, not a fiftieth of it."""
    one = best("gpt2", "lumi", method="lora", dataset_tokens=1000)
    assert one.duration.middle == pytest.approx(one.duration.load + one.duration.pace.step_seconds)


def test_records_are_shared_out_in_equal_batches() -> None:
    """1,000 prompts for 3 copies are 334 each: two batches of 167, not of 256 and 78."""
    found = planned("gpt2", "snellius", task="generate", records=1000, gpus=3, gpu="h100")
    assert found.best is not None
    assert found.best.case.workload.batch == 167
    work = found.best.duration.middle - found.best.duration.load
    assert work == pytest.approx(2 * found.best.duration.pace.step_seconds)


def test_a_job_that_would_load_half_its_time_is_no_way() -> None:
    """405 billion parameters, and devel jobs of ten minutes."""
    found = planned("meta-llama/Llama-3.1-405B", "musica", partition="zen4_0768_h100x4_devel", quantize="nf4")
    assert found.best is None or found.best.duration.jobs < 1000


@pytest.mark.parametrize(
    ("model", "cluster"), [("meta-llama/Llama-3.1-70B", "musica"), ("Qwen/Qwen3-30B-A3B", "mahti")]
)
def test_a_refusal_does_not_hide_what_comes_nearest(model: str, cluster: str) -> None:
    """Heads that do not divide by some numbers of GPUs, and too little memory on the others."""
    found = planned(model, cluster, method="full", strategy="tensor")
    assert found.best or (found.closest and found.closest.case)


@pytest.mark.parametrize("task", [{"task": "generate"}, {"task": "embed"}, {"method": "lora"}, {"method": "full"}])
def test_each_candidate_is_a_case_that_its_wishes_settle_to(task: dict[str, str]) -> None:
    """The run commands take it as it is; and footprints that ways share are those of each way."""
    found = planned("meta-llama/Llama-3.1-8B", "snellius", **task)
    for one in found.candidates:
        again = settle(one.case.shape, one.case.gpu, one.wishes)
        assert again == one.case, one.way
        assert again.on_gpu.needed == search("meta-llama/Llama-3.1-8B").footprint(one.case).needed
        assert again.on_gpu.needed <= one.case.gpu.memory_bytes


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_copies_are_as_fast_together_as_their_sum(engine: str) -> None:
    """Each was counted alone; all of them counted together give the same."""
    for one in planned("meta-llama/Llama-3.1-70B", "snellius", task="generate", engine=engine).candidates:
        together = pace(one.case, one.place.links)
        assert one.duration.pace.tokens_per_second == pytest.approx(together.tokens_per_second), one.way
        assert one.duration.load == pytest.approx(load_seconds(one.case, one.place.links))


# ------------------------------------------------------------------------------------------------- what the site says
@pytest.mark.parametrize("name", sorted(shipped_clusters()))
def test_no_plan_breaks_a_rule_of_the_site(name: str) -> None:
    wishes = {"gpu": "a100-80"} if name == "generic" else {}
    for task in ({"task": "generate"}, {"method": "lora"}):
        for one in planned("meta-llama/Llama-3.1-8B", name, **task, **wishes).candidates:
            partition, node, gpus = one.place.partition, one.place.node, one.case.strategy.gpus
            assert one.idle_gpus == 0
            assert partition.purpose == "batch"
            assert one.nodes <= min(partition.max_nodes or one.nodes, node.count or one.nodes)
            assert partition.min_gpus <= gpus <= (partition.max_gpus or gpus)
            assert gpus % node.gpus == 0 or (one.nodes == 1 and not partition.whole_nodes)
            assert partition.limit_seconds is None or one.duration.asked <= partition.limit_seconds


def test_a_whole_node_is_paid_for_its_idle_gpus() -> None:
    """LUMI's standard-g gives nodes of 8 GCDs, at half a GPU-hour each."""
    one = best("meta-llama/Llama-3.1-8B", "lumi", method="lora", gpus=4, partition="standard-g")
    assert (one.idle_gpus, one.allocated_gpus) == (4, 8)
    assert one.gpu_hours == pytest.approx(8 * one.duration.middle / 3600)
    assert one.billing_units == pytest.approx(0.5 * one.gpu_hours)


def test_what_the_users_choices_cost_is_the_difference_to_the_best() -> None:
    found = planned("meta-llama/Llama-3.1-8B", "lumi", method="lora", gpus=4, partition="standard-g")
    assert found.unpinned is not None and found.best is not None
    assert found.unpinned.gpu_hours < found.best.gpu_hours


def test_a_choice_that_is_the_best_costs_nothing() -> None:
    one = best("meta-llama/Llama-3.1-8B", "lumi", method="lora")
    again = planned("meta-llama/Llama-3.1-8B", "lumi", method="lora", gpus=one.case.strategy.gpus)
    assert again.unpinned is None


def test_work_beyond_the_time_limit_gets_more_gpus_before_a_chain_of_jobs() -> None:
    """Mahti's partitions end after 36 hours."""
    few = best("meta-llama/Llama-3.1-8B", "mahti", method="lora", dataset_tokens=10_000_000)
    many = best("meta-llama/Llama-3.1-8B", "mahti", method="lora", dataset_tokens=1_000_000_000)
    assert few.case.strategy.gpus < many.case.strategy.gpus
    assert many.duration.jobs == 1
    assert many.duration.asked <= 36 * 3600


def test_work_that_no_single_job_finishes_becomes_a_chain() -> None:
    one = best("meta-llama/Llama-3.1-8B", "mahti", method="lora", dataset_tokens=10**12)
    assert one.duration.jobs > 1
    assert one.duration.asked == 36 * 3600
    assert one.duration.jobs * 36 * 3600 > one.duration.high


def test_twice_the_tokens_take_twice_the_work() -> None:
    single, double = (
        best("gpt2", "puhti", method="full", gpus=1, dataset_tokens=count).duration for count in (10**9, 2 * 10**9)
    )
    work = [one.middle - one.jobs * one.load for one in (single, double)]
    assert work[1] == pytest.approx(2 * work[0])


def test_vllm_reads_float32_weights_in_16_bits() -> None:
    """gpt2 is saved in float32; 124 million parameters are 0.25 GB in 16 bits."""
    one = best("gpt2", "mahti", task="generate", engine="vllm")
    assert one.case.compute_dtype == "bfloat16"


# --------------------------------------------------------------------------------------------------- what cannot be
def test_what_fits_nowhere_names_the_closest_and_what_would_help() -> None:
    """405 billion parameters, 16 bytes each in mixed-precision training, on 80 nodes of 4 V100."""
    found = planned("meta-llama/Llama-3.1-405B", "puhti", method="full")
    assert found.best is None
    assert found.closest is not None
    assert found.closest.needed > found.closest.available


def test_a_remedy_fits_when_it_is_asked_for() -> None:
    found = planned("bigscience/bloom", "snellius", task="generate")
    assert found.best is None
    assert [remedy.flags for remedy in found.remedies][:2] == ["--quantize int8", "--quantize nf4"]
    assert planned("bigscience/bloom", "snellius", task="generate", quantize="int8").best


def test_a_rejected_strategy_names_the_nearest_that_fits() -> None:
    found = planned("meta-llama/Llama-3.1-70B", "lumi", method="lora")
    ddp = next(one for one in found.rejected if one.nearest_miss.way.strategy == "ddp")
    assert ddp.nearest_miss.item == "weights"
    assert ddp.instead is not None and ddp.instead.way.strategy == "fsdp"


def test_the_ram_of_a_node_can_be_what_is_missing() -> None:
    """Each of DDP's 8 processes loads 16 GB of its own: 128 GB and more, in a node that is given 60."""
    lumi = find_cluster("lumi")
    node = replace(lumi.nodes["mi250x"], host_memory_gib=60, host_memory_per_gpu_gib=7.5)
    found = plan(search("meta-llama/Llama-3.1-8B"), replace(lumi, nodes={"mi250x": node}), Wishes(method="lora"))
    ddp = [one.nearest_miss for one in found.rejected if one.nearest_miss.way.strategy == "ddp"]
    assert any(one.on_host and one.needed > 8 * 16e9 for one in ddp)


def test_states_leave_the_gpus_only_where_nothing_fits_without() -> None:
    """7.2 billion parameters x 16 bytes are 116 GB; the two RTX 6000 have 47, and no other node has more."""
    one = best("mistralai/Mistral-7B-v0.1", "lumi", method="full")
    assert one.case.strategy.offload == "none"


def test_more_gpus_than_the_usual_batch_has_sequences_are_a_last_resort() -> None:
    """176 billion parameters x 16 bytes are 2.8 TB: more than 64 GCDs of 64 GB have with their activations."""
    one = best("bigscience/bloom", "lumi", method="full")
    assert one.case.strategy.gpus > 64
    assert one.case.global_batch == one.case.strategy.gpus


# ------------------------------------------------------------------------------------------------ wishes that clash
VLLM = {"task": "generate", "method": None, "engine": "vllm"}


@pytest.mark.parametrize(
    ("cluster", "wishes", "words"),
    [
        ("lumi", {"partition": "standart-g"}, ["standart-g", "standard-g"]),
        ("lumi", {"gpu": "v100"}, ["lumi has no GPU 'v100'", "mi250x"]),
        ("lumi", {"partition": "small-g", "nodes": 64}, ["--partition small-g and --nodes 64"]),
        ("lumi", {"nodes": 2, "gpus": 8}, ["--nodes 2 and --gpus 8", "16 GPUs"]),
        ("snellius", {"partition": "gpu_a100", "gpu": "h100"}, ["--partition gpu_a100 and --gpu h100"]),
        ("lumi", {"strategy": "single", "gpus": 8}, ["--strategy single"]),
        ("lumi", {"strategy": "fsdp", "gpus": 1}, ["--strategy fsdp"]),
        ("lumi", {"gpus_per_node": 4}, ["--gpus-per-node"]),
        ("generic", {}, ["--gpu"]),
        ("laptop", {"strategy": "fsdp"}, ["may have 1 GPU:", "--strategy fsdp"]),
        ("lumi", {"batch": 64, "micro_batch": 3}, ["--batch 64 and --micro-batch 3", "--batch 66"]),
        ("lumi", {**VLLM, "new_tokens": 200_000}, ["--new-tokens", "fewer than 131,072"]),
        ("snellius", {"gpus": 6}, ["1 to 4 GPUs, or whole nodes of 4"]),
    ],
)
def test_wishes_that_contradict_are_named(cluster: str, wishes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        planned("meta-llama/Llama-3.1-8B", cluster, **{"method": "lora", **wishes})
    for word in words:
        assert word in str(refused.value)


# -------------------------------------------------------------------------------------------------------- everything
@pytest.mark.slow
def test_every_model_of_the_catalogue_has_an_answer_on_every_cluster() -> None:
    """A plan, or a closest miss, or a reason."""
    clusters = [find_cluster(name) for name in shipped_clusters() if name != "generic"]
    reasons: dict[str, int] = {}
    plans = 0
    for name in catalogue_names():
        try:
            ways = Search(find_model(name))
        except ClusterlmError as refusal:
            reasons[refusal.problem] = reasons.get(refusal.problem, 0) + 1
            continue
        for cluster in clusters:
            try:
                found = plan(ways, cluster, Wishes())
            except UsageError as refusal:
                assert "writes no text" in refusal.problem, f"{name} on {cluster.name}: {refusal}"
                continue
            assert found.best or found.closest
            plans += 1
    assert plans > 0.9 * len(catalogue_names()) * len(clusters)
    assert sum(reasons.values()) <= 2, reasons
