"""What training needs on a GPU, against published measurements and sums done by hand."""

from dataclasses import replace

import pytest

from clusterlm.cluster import gpus
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.host import host_items
from clusterlm.planning.memory import footprint
from clusterlm.planning.workload import Kernels, Method, Optimizer, Software, Workload
from clusterlm.strategy import Offload, Sharding, Strategy

GIB = 2**30
MISTRAL, LLAMA_2, LLAMA_3 = "mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf", "meta-llama/Meta-Llama-3-8B"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CUBLAS = 2 * 8_519_680
"""Forward and backward threads, A100."""


def shape(name: str) -> ModelShape:
    config = catalogue_config(name)
    assert config is not None
    return shape_from_config(config, name)


def planned(
    name: str, workload: Workload, gpus_used: int = 1, sharding: Sharding = "none", offload: Offload = "none"
) -> Footprint:
    strategy = Strategy(gpus=gpus_used, gpus_per_node=gpus_used, sharding=sharding, offload=offload)
    return footprint(shape(name), workload, strategy, gpus()["a100-80"])


def trainer(
    method: Method,
    batch: int,
    tokens: int = 4096,
    version: tuple[int, ...] = (4, 48, 1),
    kernels: Kernels = "plain",
    quantise: str | None = None,
    autocast: bool = False,
    accumulation: bool = False,
    optimizer: Optimizer = "adamw",
    checkpointing: bool = True,
) -> Workload:
    """transformers' Trainer with flash attention, adapters on attention."""
    return Workload(
        task="train",
        method=method,
        batch=batch,
        sequence_tokens=tokens,
        attention="flash",
        lora_targets=ATTENTION,
        software=Software(version=version, kernels=kernels),
        quantise=quantise,
        autocast=autocast,
        accumulation=accumulation,
        optimizer=optimizer,
        checkpointing=checkpointing,
    )


def item_bytes(found: Footprint, item: str) -> int:
    return max(one.bytes for phase in found.phases for one in phase.items if one.name == item)


def test_full_fine_tuning_peaks_in_the_optimizer_step_at_10_bytes_a_parameter() -> None:
    found = planned(MISTRAL, trainer("full", batch=4))
    # bf16 weights 2, gradients 2, two states of 2, and one copy of the gradients (foreach): 10 B of 7,241,732,096.
    assert found.allocated == 10 * 7_241_732_096 + CUBLAS
    assert found.deciding_phase.name == "optimizer step"
    # fms-acceleration@876e2ed, refs/a100_80gb.csv: 67.46 GiB at 4 and at 8 sequences of 4096.
    assert found.allocated / GIB == pytest.approx(67.46, rel=0.001)
    assert planned(MISTRAL, trainer("full", batch=8)).allocated == found.allocated


# fms-acceleration@876e2ed, refs/a100_80gb.csv and a100_80gb_liger.csv: torch.cuda.max_memory_allocated.
@pytest.mark.parametrize(
    ("kernels", "version", "batch", "published_gib"),
    [
        ("plain", (4, 48, 1), 4, 15.25),
        ("plain", (4, 48, 1), 8, 26.46),
        ("fused", (4, 48, 1), 4, 13.15),
        ("fused", (4, 45, 2), 4, 12.17),
        ("fused-loss", (4, 45, 2), 32, 69.03),
    ],
)
def test_qlora_of_mistral_7b_is_within_1_percent_of_published_runs(
    kernels: Kernels, version: tuple[int, ...], batch: int, published_gib: float
) -> None:
    workload = trainer("qlora", batch, version=version, kernels=kernels, quantise="nf4-dq", autocast=True)
    assert planned(MISTRAL, workload).allocated / GIB == pytest.approx(published_gib, rel=0.01)


# fms-acceleration@876e2ed, refs/a100_80gb_liger.csv: FSDP1 on four A100.
@pytest.mark.parametrize(
    ("method", "kernels", "batch", "published_gib"),
    [
        ("qlora", "fused-loss", 4, 15.32),
        ("qlora", "fused", 8, 43.29),
        ("lora", "fused", 4, 25.66),
        ("full", "fused", 8, 64.22),
    ],
)
def test_fsdp_on_four_gpus_is_within_1_percent_of_published_runs(
    method: Method, kernels: Kernels, batch: int, published_gib: float
) -> None:
    quantise = "nf4-dq" if method == "qlora" else None
    workload = trainer(method, batch, version=(4, 45, 2), kernels=kernels, quantise=quantise, autocast=True)
    assert planned(LLAMA_3, workload, 4, "fsdp1").allocated / GIB == pytest.approx(published_gib, rel=0.01)


def test_a_loss_in_the_models_own_type_needs_8_bytes_for_each_logit() -> None:
    # fms-acceleration@876e2ed, refs/a100_80gb.csv: santacoder, 8 sequences of 2048, 14.15 GiB.
    found = planned("bigcode/gpt_bigcode-santacoder", trainer("full", batch=8, tokens=2048))
    assert found.allocated / GIB == pytest.approx(14.15, rel=0.01)
    assert found.deciding_phase.name == "forward end, loss"


def test_checkpoints_keep_one_hidden_state_for_each_layer() -> None:
    found = planned(LLAMA_2, trainer("full", batch=2, tokens=1024))
    # 2 x 1024 tokens x 32 layers x 4096 x 2 B
    assert item_bytes(found, "activations saved") == 2 * 1024 * 32 * 4096 * 2


def test_frozen_weights_have_no_gradients_and_no_states() -> None:
    found = planned(LLAMA_2, trainer("lora", batch=1, tokens=512))
    # Rank 16 on four square matrices of 32 layers, in float32.
    adapters = 32 * 4 * 16 * (4096 + 4096)
    assert item_bytes(found, "adapters") == item_bytes(found, "gradients") == 4 * adapters
    assert item_bytes(found, "optimizer states") == 8 * adapters


# DeepSpeed's estimate_zero2_model_states_mem_needs: 2 B a parameter whole and 18 / ranks (float32 weight, two states
# and gradient of 4 B, gradient of 2 B); estimate_zero3: weights too are cut. ZeRO-1 keeps gradients whole.
@pytest.mark.parametrize(
    ("sharding", "whole", "cut"), [("zero1", 2 + 2, 4 * 4), ("zero2", 2, 2 + 4 * 4), ("zero3", 0, 2 + 2 + 4 * 4)]
)
def test_zero_stages_cut_what_deepspeed_says(sharding: Sharding, whole: int, cut: int) -> None:
    found = planned(LLAMA_2, trainer("full", batch=1, tokens=512), 8, sharding)
    parameters = 6_738_415_616
    names = ("weights", "master weights", "optimizer states", "gradients", "optimizer's temporaries")
    assert sum(item_bytes(found, name) for name in names) == pytest.approx(parameters * (whole + cut / 8), rel=1e-6)


def test_ddp_adds_one_copy_of_the_gradients() -> None:
    one = planned(LLAMA_2, trainer("full", batch=1, tokens=512))
    two = planned(LLAMA_2, trainer("full", batch=1, tokens=512), 2, "ddp")
    assert two.allocated - one.allocated == pytest.approx(2 * 6_738_415_616, rel=0.001)
    assert two.needed > one.needed + 2 * 6_738_415_616, "and NCCL's buffers on the card"


def test_fsdp1_keeps_whole_gradients_from_micro_batch_to_micro_batch() -> None:
    # fms-acceleration@876e2ed, refs_orca/a100_80gb_pf.csv: Mistral-7B on 2, 4 and 8 GPUs, two micro-batches of few
    # tokens each: 36.37, 26.12 and 20.81 GiB; without accumulation 10 B / 8 would be 8.4 GiB.
    for count, published_gib in ((2, 36.37), (4, 26.12), (8, 20.81)):
        workload = trainer("full", batch=2, tokens=1024, accumulation=True)
        assert planned(MISTRAL, workload, count, "fsdp1").allocated / GIB == pytest.approx(published_gib, rel=0.05)


def test_offload_moves_states_to_the_host() -> None:
    workload, parameters = trainer("full", batch=1, tokens=512), 6_738_415_616
    found = planned(LLAMA_2, workload, 8, "zero3", offload="optimizer-cpu")
    # estimate_zero3_model_states_mem_needs with the optimizer offloaded: 2 B a parameter / ranks stay on the GPU.
    assert item_bytes(found, "weights") == pytest.approx(2 * parameters / 8, rel=1e-6)
    assert item_bytes(found, "gradients") == 0
    assert planned(LLAMA_2, workload, 8, "zero3", offload="cpu").allocated < found.allocated
    strategy = Strategy(gpus=8, gpus_per_node=8, sharding="zero3", offload="optimizer-cpu")
    offloaded = sum(item.bytes for item in host_items(shape(LLAMA_2), workload, strategy))
    assert offloaded > 16 * parameters, "16 B a parameter and DeepSpeed's buffers"


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_parameter"),
    # Two states of one byte with a float32 scale each per 256; paged ones on the host; row and column sums.
    [("adamw-8bit", 2 + 8 / 256), ("paged-adamw-8bit", 0), ("sgd", 0), ("adafactor", 0.003), ("adamw-fused", 4)],
)
def test_optimizers_differ_by_their_states(optimizer: Optimizer, bytes_a_parameter: float) -> None:
    found = planned(LLAMA_2, trainer("full", batch=1, tokens=512, optimizer=optimizer))
    states = [one.bytes for phase in found.phases for one in phase.items if one.name == "optimizer states"]
    assert max(states, default=0) / 6_738_415_616 == pytest.approx(bytes_a_parameter, abs=0.002)


# Lightning-AI/litgpt@2685705, tutorials/resource-tables.md and config_hub/finetune/README.md, decimal GB.
@pytest.mark.parametrize(
    ("name", "batch", "tokens", "rank", "quantise", "rare", "published_gb"),
    [
        (LLAMA_2, 1, 1304, 8, None, True, 21.30),
        (LLAMA_2, 2, 1304, 8, None, True, 29.07),
        (LLAMA_2, 1, 1304, 8, "nf4", True, 14.14),
        (LLAMA_2, 2, 512, 32, "nf4", False, 13.68),
        (MISTRAL, 2, 512, 32, None, False, 20.66),
        ("meta-llama/Llama-3.2-3B", 1, 512, 32, None, False, 9.67),
    ],
)
def test_litgpt_is_within_2_percent_of_its_tables(
    name: str, batch: int, tokens: int, rank: int, quantise: str | None, rare: bool, published_gb: float
) -> None:
    workload = Workload(
        task="train",
        method="lora",
        batch=batch,
        sequence_tokens=tokens,
        longest_is_rare=rare,
        accumulation=True,
        quantise=quantise,
        lora_rank=rank,
        lora_targets=("query", "value"),
        adapter_dtype="bfloat16",
        software=Software(engine="litgpt", version=(0, 1) if rare else (0, 4)),
    )
    assert planned(name, workload).allocated / 1e9 == pytest.approx(published_gb, rel=0.02)


def test_litgpts_adapters_have_the_parameters_that_it_prints() -> None:
    # litgpt 0.4.13, number of trainable parameters of Llama-2-7b-hf with adapter v1 and v2.
    printed_parameters: dict[Method, int] = {"adapter-v1": 1_229_760, "adapter-v2": 4_279_744}
    for method, printed in printed_parameters.items():
        workload = Workload(task="train", method=method, sequence_tokens=512, software=Software(engine="litgpt"))
        assert item_bytes(planned(LLAMA_2, workload), "gradients") == 2 * printed


def titan(count: int, tensor: int = 1) -> Footprint:
    workload = Workload(
        task="train",
        batch=2,
        sequence_tokens=8192,
        checkpointing=True,
        selective_checkpointing=True,
        autocast=True,
        optimizer="adamw-fused",
        software=Software(engine="torchtitan", torch=(2, 6)),
    )
    strategy = Strategy(gpus=count, gpus_per_node=8, tensor_degree=tensor, sharding="fsdp2")
    return footprint(shape("meta-llama/Llama-3.1-8B"), workload, strategy, gpus()["h100-80"])


# pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md: 8B, selective checkpointing, eager, reserved GiB.
@pytest.mark.parametrize(("count", "published_gib"), [(8, 82.4), (128, 67.0)])
def test_torchtitans_reserved_memory_lies_in_the_range(count: int, published_gib: float) -> None:
    found = titan(count)
    assert found.reserved_low / GIB < published_gib < found.reserved_high / GIB
    assert (found.reserved_low + found.reserved_high) / 2 / GIB == pytest.approx(published_gib, rel=0.05)


def test_tensor_parallel_cuts_activations_and_logits() -> None:
    one, two = titan(8), titan(8, tensor=2)
    for item in ("activations saved", "head and loss", "root unit, whole"):
        assert item_bytes(two, item) == pytest.approx(item_bytes(one, item) / 2, rel=1e-6)
    assert item_bytes(two, "weights") == item_bytes(one, "weights"), (
        "the data degree halves as the tensor degree doubles"
    )


def test_a_run_that_failed_needs_more_than_the_card_and_its_smaller_sister_less() -> None:
    # fms-acceleration@876e2ed, refs/a100_80gb.csv: Llama-2-70B QLoRA on two A100-80: 4 sequences of 4096 failed, 2 ran.
    card = gpus()["a100-80"].memory_bytes
    failed, ran = (
        planned(
            "NousResearch/Llama-2-70b-hf",
            trainer("qlora", batch, quantise="nf4-dq", autocast=True),
            2,
            "fsdp1",
        )
        for batch in (4, 2)
    )
    assert failed.needed > card > ran.needed


def test_what_only_one_phase_holds_leaves_holes() -> None:
    # fms-acceleration@876e2ed, refs/a100_80gb_liger.csv: full fine-tuning of Llama-3-8B, 74.80 GiB of 79.15 allocated.
    step = planned(LLAMA_3, trainer("full", batch=4, version=(4, 45, 2), kernels="fused-loss", autocast=True))
    assert step.holes == 0 and step.needed < gpus()["a100-80"].memory_bytes
    backward = planned(LLAMA_3, trainer("qlora", batch=8, quantise="nf4-dq", autocast=True))
    assert backward.holes > 0
    assert backward.reserved_low == backward.allocated < backward.reserved_high


def test_without_checkpointing_each_layer_keeps_what_autograd_saves() -> None:
    found = planned(LLAMA_2, trainer("full", batch=1, tokens=2048, checkpointing=False))
    # For one token of modeling_llama.py with flash attention: two norms keep float32 copies and normalised ones
    # (2 x 6 H B), q, k, v and the output (8 H), inputs of q/k/v and of the MLP (4 H), gate, its activation, up and
    # their product (8 I).
    layer = (12 + 8 + 4) * 4096 + 8 * 11008
    assert item_bytes(found, "activations saved") == 2048 * 32 * layer


def test_bert_large_is_near_its_published_anatomy() -> None:
    # transformers, model_memory_anatomy.md: 14,949 MiB by nvidia-smi of a V100 whose context takes 1,343 MiB;
    # float32, eager, 4 sequences of 512.
    workload = Workload(
        task="train",
        dtype="float32",
        batch=4,
        sequence_tokens=512,
        attention="eager",
        accumulation=True,
        software=Software(version=(4, 20), torch=(1, 12)),
    )
    found = footprint(shape("bert-large-uncased"), workload, Strategy(), gpus()["v100-32"])
    assert found.reserved_low < (14_949 - 1_343) * 2**20 < found.reserved_high


def test_only_fsdp1_holds_the_inputs_of_frozen_layers() -> None:
    workload = trainer("lora", batch=2)
    shardings: tuple[Sharding, ...] = ("fsdp1", "fsdp2", "zero3")
    held = {
        sharding: item_bytes(planned(LLAMA_2, workload, 2, sharding), "inputs of frozen units, kept")
        for sharding in shardings
    }
    # 2 x 4096 tokens x 2 B x 4096 x (32 - 2) layers
    assert held == {"fsdp1": 2 * 4096 * 2 * 4096 * 30, "fsdp2": 0, "zero3": 0}


def test_adapters_on_the_mlp_cost_more_than_on_attention_alone() -> None:
    attention = planned(LLAMA_2, trainer("lora", batch=8, tokens=2048))
    everywhere = planned(LLAMA_2, replace(trainer("lora", batch=8, tokens=2048), lora_targets=("all-linear",)))
    # Traced with transformers 5.23 and PEFT 0.21: one layer's backward takes 5.48 GiB with all-linear adapters.
    assert item_bytes(everywhere, "one layer's backward") / GIB == pytest.approx(5.48, rel=0.02)
    assert item_bytes(attention, "one layer's backward") < item_bytes(everywhere, "one layer's backward")


# Traces of transformers 4.48.1 under fake tensors: frozen weights, SDPA, 4 x 2048 tokens, bytes for one token.
@pytest.mark.parametrize(
    ("name", "kept", "one_layer"),
    [
        (LLAMA_2, 131_720, 214_298),
        ("google/gemma-2b", 131_114, 241_980),
        ("EleutherAI/gpt-neox-20b", 110_856, 221_490),
        ("microsoft/phi-2", 107_652, 174_262),
        ("Qwen/Qwen2.5-7B", 171_128, 299_274),
    ],
)
def test_a_layer_keeps_and_needs_what_a_trace_of_it_does(name: str, kept: int, one_layer: int) -> None:
    workload = replace(trainer("qlora", batch=4, tokens=2048), attention="sdpa", lora_targets=("none",))
    layers, tokens = len(shape(name).layers), 4 * 2048
    unchecked = planned(name, replace(workload, checkpointing=False))
    assert item_bytes(unchecked, "activations saved") / layers / tokens == pytest.approx(kept, rel=0.005)
    assert item_bytes(planned(name, workload), "one layer's backward") / tokens == pytest.approx(one_layer, rel=0.02)
