"""What generation and serving need on a GPU, against published measurements and sums done by hand."""

import math

import pytest

from clusterlm.cluster import Gpu, gpus
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.model.shape import ModelShape
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.memory import footprint
from clusterlm.planning.serving import cache_pool, default_limits, token_bytes
from clusterlm.planning.weights import scheme_of
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Strategy

GIB = 2**30
MIB = 2**20
VLLM_0_19 = Software(engine="vllm", version=(0, 19, 0))


def shape(name: str) -> ModelShape:
    config = catalogue_config(name)
    assert config is not None
    return shape_from_config(config, name)


def card(key: str) -> Gpu:
    return gpus()[key]


def planned(name: str, workload: Workload, gpu: str = "a100-80", strategy: Strategy | None = None) -> Footprint:
    return footprint(shape(name), workload, strategy or Strategy(), card(gpu))


def item_bytes(found: Footprint, phase: str, item: str) -> int:
    (chosen,) = (one for one in found.phases if one.name == phase)
    return sum(one.bytes for one in chosen.items if one.name == item)


# QwenLM/Qwen3@v2.5 docs/source/benchmark/speed_benchmark.rst: sum of torch.cuda.max_memory_allocated, 2048 new tokens.
@pytest.mark.parametrize(("prompt", "published_gib"), [(1, 14.38), (6144, 15.38), (14336, 16.91), (30720, 19.97)])
def test_qwen25_7b_is_within_5_percent_of_its_speed_table(prompt: int, published_gib: float) -> None:
    workload = Workload(sequence_tokens=prompt, new_tokens=2048, software=Software(version=(4, 46, 0)))
    assert planned("Qwen/Qwen2.5-7B-Instruct", workload).allocated / GIB == pytest.approx(published_gib, rel=0.05)


# QwenLM/Qwen3@v1.5 docs/source/benchmark/hf_infer.rst: transformers before 4.45.
@pytest.mark.parametrize(("prompt", "published_gib"), [(1, 16.9), (6144, 24.37), (30720, 62.29)])
def test_old_transformers_keeps_the_logits_of_the_whole_prompt_and_two_caches(
    prompt: int, published_gib: float
) -> None:
    workload = Workload(sequence_tokens=prompt, new_tokens=2048, software=Software(version=(4, 37)))
    assert planned("Qwen/Qwen1.5-7B-Chat", workload).allocated / GIB == pytest.approx(published_gib, rel=0.05)


def test_a_sliding_window_bounds_the_cache() -> None:
    short, long = (
        item_bytes(
            planned("mistralai/Mistral-7B-v0.1", Workload(sequence_tokens=tokens, new_tokens=2)),
            "last token",
            "KV cache",
        )
        for tokens in (4096, 16384)
    )
    # 32 layers x 4096 tokens x 2 x 8 KV heads x 128 x 2 B
    assert short == long == 32 * 4096 * 2 * 8 * 128 * 2


def test_a_latent_cache_was_expanded_by_transformers_4_and_is_compressed_since_and_by_vllm() -> None:
    name = "deepseek-ai/DeepSeek-V2-Lite-Chat"
    before = Workload(sequence_tokens=1000, software=Software(version=(4, 48)))
    expanded = item_bytes(planned(name, before), "last token", "KV cache")
    # 27 layers x 16 heads x (128 + 64 of the key + 128 of the value) x 2 B
    assert expanded == 1000 * 27 * 16 * (192 + 128) * 2
    since = Workload(sequence_tokens=1000, new_tokens=2)
    # 27 layers x (512 latent + 64 rotary) x 2 B; in transformers 5.23 past_key_values.update() gets both as they are
    assert item_bytes(planned(name, since), "last token", "KV cache") == pytest.approx(1001 * 27 * 576 * 2, rel=0.002)
    # ... and whole on every rank
    for degree in (1, 2):
        strategy = Strategy(gpus=degree, tensor_degree=degree)
        assert token_bytes(shape(name), Workload(), strategy) == 27 * 576 * 2


def test_loading_in_fewer_bits_shrinks_the_layers_only() -> None:
    name, linears = "meta-llama/Llama-2-7b-hf", 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    rows = 32 * (4 * 4096 + 2 * 11008 + 4096)
    layers = {
        quantise: item_bytes(planned(name, Workload(quantise=quantise)), "load", "weights: layers")
        for quantise in (None, "int8", "nf4")
    }
    norms = 32 * 2 * 4096 * 2
    assert layers[None] == linears * 2 + norms
    assert layers["int8"] == linears + rows * 4 + norms
    assert layers["nf4"] == linears * (0.5 + 4 / 64) + norms
    heads = {item_bytes(planned(name, Workload(quantise=one)), "load", "weights: head") for one in layers}
    assert heads == {32000 * 4096 * 2}


# casper-hansen/AutoAWQ@88e4c76b2075 README.md: max_memory_allocated of examples/benchmark.py on RTX 4090.
@pytest.mark.parametrize(
    ("name", "tokens", "batch", "published_gib"),
    [
        ("mistralai/Mistral-7B-v0.1", 64, 8, 4.33),
        ("mistralai/Mistral-7B-v0.1", 2048, 1, 5.55),
        ("mistralai/Mistral-7B-v0.1", 2048, 8, 16.82),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 64, 1, 0.86),
        ("codellama/CodeLlama-34b-hf", 64, 1, 19.05),
        ("mosaicml/mpt-7b", 2048, 1, 5.87),
    ],
)
def test_autoawq_fuses_and_scores_in_float32_as_it_was_measured(
    name: str, tokens: int, batch: int, published_gib: float
) -> None:
    software = Software(engine="autoawq", version=(0, 1, 6))
    workload = Workload(
        dtype="float16",
        batch=batch,
        sequence_tokens=tokens,
        new_tokens=tokens,
        cache_tokens=tokens,
        quantise="awq-int4",
        software=software,
    )
    assert planned(name, workload, "rtx4090").allocated / GIB == pytest.approx(published_gib, rel=0.05)


# Lightning-AI/litgpt tutorials/resource-tables.md (2023-10-20): max_memory_allocated in decimal GB, A100 40 GB.
@pytest.mark.parametrize(
    ("name", "quantise", "published_gb"),
    [
        ("meta-llama/Llama-2-7b-hf", None, 13.52),
        ("meta-llama/Llama-2-7b-hf", "nf4", 4.57),
        ("codellama/CodeLlama-34b-hf", "nf4-dq", 18.95),
        ("tiiuae/falcon-40b", "nf4", 26.55),
    ],
)
def test_litgpt_unpacks_a_quantised_head_for_the_prompt(name: str, quantise: str | None, published_gb: float) -> None:
    software = Software(engine="litgpt", version=(0, 1))
    workload = Workload(sequence_tokens=9, new_tokens=50, quantise=quantise, software=software)
    assert planned(name, workload, "a100-40").allocated / 1e9 == pytest.approx(published_gb, rel=0.05)


# llm-d-planner@d3121e059da8 accuracy/results/v0.19.0, H100 of 79.19 GiB: weights + peak activation + not torch's.
@pytest.mark.parametrize(
    ("name", "tensor_degree", "dtype", "published_gib"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, "bfloat16", 17.13),
        ("meta-llama/Llama-3.1-8B-Instruct", 1, "float32", 32.44),
        ("meta-llama/Llama-3.1-8B-Instruct", 4, "bfloat16", 7.79),
        ("google/gemma-3-12b-it", 1, "bfloat16", 27.50),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 2, "bfloat16", 46.79),
        ("openai/gpt-oss-20b", 2, "bfloat16", 11.95),
        ("RedHatAI/Llama-3.3-70B-Instruct-fp8-dynamic", 2, "bfloat16", 37.94),
    ],
)
def test_vllms_profile_run_is_within_2_percent_of_its_log(
    name: str, tensor_degree: int, dtype: str, published_gib: float
) -> None:
    strategy = Strategy(gpus=tensor_degree, gpus_per_node=tensor_degree, tensor_degree=tensor_degree)
    found = planned(name, Workload(dtype=dtype, software=VLLM_0_19), "h100-80", strategy)
    assert found.allocated / GIB == pytest.approx(published_gib, rel=0.02)


def test_a_new_sampler_freed_three_gib_in_vllm_0_17() -> None:
    old, new = (
        planned("Qwen/Qwen3-14B", Workload(software=Software(engine="vllm", version=version)), "h100-80").allocated
        for version in ((0, 16, 0), (0, 17, 0))
    )
    # llm-d-planner's version sweep: 33.29 and 29.89 GiB
    assert old / GIB == pytest.approx(33.29, rel=0.01)
    assert new / GIB == pytest.approx(29.89, rel=0.01)


# The same logs at gpu_memory_utilization 0.95: "GPU KV cache size: N tokens".
@pytest.mark.parametrize(
    ("name", "tensor_degree", "published_tokens"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 476_016),
        ("meta-llama/Llama-3.1-8B-Instruct", 2, 1_044_688),
        ("Qwen/Qwen3-30B-A3B", 1, 168_288),
        ("google/gemma-2-9b-it", 1, 168_880),
    ],
)
def test_the_pool_that_vllm_leaves_holds_as_many_tokens_as_it_logs(
    name: str, tensor_degree: int, published_tokens: int
) -> None:
    strategy = Strategy(gpus=tensor_degree, gpus_per_node=tensor_degree, tensor_degree=tensor_degree)
    model, workload = shape(name), Workload(software=VLLM_0_19)
    pool = cache_pool(model, workload, scheme_of(model, None), strategy, card("h100-80"), utilisation=0.95)
    assert pool.tokens == pytest.approx(published_tokens, rel=0.02)
    assert pool.tokens % 16 == 0


def test_a_pool_is_whole_blocks_of_what_is_left_of_the_physical_card() -> None:
    name, gpu = "meta-llama/Llama-3.1-8B-Instruct", card("h100-80")
    workload = Workload(software=VLLM_0_19)
    pool = cache_pool(shape(name), workload, None, Strategy(), gpu)
    assert pool.bytes == round(0.9 * gpu.memory_bytes) - planned(name, workload, gpu.key).allocated
    # 32 layers x 2 x 8 KV heads x 128 x 2 B = 131072 B a token
    assert pool.tokens == math.floor(pool.bytes / 131_072 / 16) * 16


def test_ranks_beyond_the_kv_heads_each_keep_a_whole_one() -> None:
    # Qwen2.5-7B has 4 KV heads: 8 ranks hold one each, 28 layers x 2 x 128 x 2 B a token.
    strategy = Strategy(gpus=8, gpus_per_node=8, tensor_degree=8)
    assert token_bytes(shape("Qwen/Qwen2.5-7B-Instruct"), Workload(), strategy) == 28 * 2 * 128 * 2


def test_vllm_takes_larger_batches_on_an_h100_than_on_an_a100() -> None:
    version, context = (0, 19, 0), 8192
    limits = {
        key: default_limits(version, card(key), offline=False, context_tokens=context) for key in ("h100-80", "a100-80")
    }
    # vllm/engine/arg_utils.py, EngineArgs.get_batch_defaults, for the server
    assert limits == {"h100-80": (1024, 8192), "a100-80": (256, 2048)}


def test_a_middle_stage_of_a_pipeline_holds_neither_embedding_nor_sampler() -> None:
    # llm-d-planner, Llama-3.1-8B at PP 4: 3.28 + 1.05 + 0.07 GiB on the rank that logs; the last rank holds the head.
    strategy = Strategy(gpus=4, gpus_per_node=4, pipeline_degree=4)
    found = planned("meta-llama/Llama-3.1-8B-Instruct", Workload(software=VLLM_0_19), "h100-80", strategy)
    head = 128_256 * 4096 * 2
    assert found.allocated / GIB > 4.40 + head / GIB


def test_matrices_that_do_not_fill_2_mib_blocks_cost_more_before_transformers_4_50() -> None:
    # Qwen2-57B-A14B: an expert's matrix is 2560 x 3584 x 2 B = 17.5 MiB in a block of 18; 28 layers x 64 x 3 of them.
    lost = 28 * 64 * 3 * MIB // 2
    one_by_one, at_once = (
        item_bytes(planned("Qwen/Qwen2-57B-A14B-Instruct", workload), "load", "allocator's rounding")
        for workload in (Workload(software=Software(version=(4, 46))), Workload(software=Software(version=(4, 50))))
    )
    assert one_by_one >= lost
    assert at_once == 0


# QwenLM/Qwen3@7a2f61ffc7a2 docs/source/getting_started/speed_benchmark.md: AWQ in AutoAWQ 0.2.9, decoding.
@pytest.mark.parametrize(("prompt", "published_gib"), [(1, 6.0322), (30720, 10.7432)])
def test_autoawqs_fused_layers_each_keep_a_table_of_rotations(prompt: int, published_gib: float) -> None:
    software = Software(engine="autoawq", version=(0, 2, 9))
    workload = Workload(
        dtype="float16", sequence_tokens=prompt, new_tokens=2048, quantise="awq-int4", software=software
    )
    (last,) = (phase for phase in planned("Qwen/Qwen3-8B", workload, "h20-96").phases if phase.name == "last token")
    assert last.bytes / GIB == pytest.approx(published_gib, rel=0.02)


@pytest.mark.parametrize(("key", "mib"), [("mi250x", 32), ("mi300x", 128), ("h100-80", 32), ("a100-80", 8.125)])
def test_workspaces_of_matrix_products_are_as_torch_documents_them(key: str, mib: float) -> None:
    """docs.pytorch.org: HIP semantics 32 MiB, 128 from MI300 on; CUDA semantics 8.125 MiB, 32 on Hopper."""
    gpu = card(key)
    assert cublas_bytes(gpu.compute_capability, handles=1, vendor=gpu.vendor) == mib * 2**20
