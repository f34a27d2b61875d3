"""Every figure that depends on a library's version: one table, each row with its source.

A row holds from its version on, until the next row of the same library takes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

GIB = 2**30
MIB = 2**20

Row = TypeVar("Row")


@dataclass(frozen=True)
class Generation:
    """What transformers' generate keeps besides weights and the cache."""

    logit_bytes: float
    """Per prompt token and vocabulary entry while the prompt is read: all positions, or 0 where only the last."""
    held_logit_bytes: float
    """The same, still held while the first new token is computed."""
    cache_copies: int
    """Copies of the key/value cache that live while one token is appended."""
    rotary_tables_per_layer: bool
    """Each layer keeps its own cosine and sine tables over the whole context."""
    weights_in_one_block: bool
    """Memory of all weights is taken at once before they are loaded, so that the allocator rounds none of them."""
    source: str


GENERATION: tuple[tuple[tuple[int, ...], Generation], ...] = (
    (
        (0,),
        Generation(
            logit_bytes=6,
            held_logit_bytes=4,
            cache_copies=2,
            rotary_tables_per_layer=True,
            weights_in_one_block=False,
            source="transformers <= 4.44: lm_head over all positions then .float(); legacy tuple cache concatenated; "
            "Qwen2RotaryEmbedding(max_position_embeddings) in every attention module",
        ),
    ),
    (
        (4, 45),
        Generation(
            logit_bytes=0,
            held_logit_bytes=0,
            cache_copies=1,
            rotary_tables_per_layer=False,
            weights_in_one_block=False,
            source="transformers 4.45: num_logits_to_keep, DynamicCache kept as an object, one rotary embedding",
        ),
    ),
    (
        (4, 50),
        Generation(
            logit_bytes=0,
            held_logit_bytes=0,
            cache_copies=1,
            rotary_tables_per_layer=False,
            weights_in_one_block=True,
            source="transformers 4.50, modeling_utils.py: caching_allocator_warmup",
        ),
    ),
)


GPTQ_SCRATCH: tuple[tuple[tuple[int, ...], bool], ...] = (((0,), True), ((4, 48), False))
"""By transformers' version. AutoGPTQ's exllama v2 kernel keeps room for the largest 4-bit matrix in float16
(ExLlamaV2DeviceTensors, temp_dq); GPTQModel, which transformers takes from 4.48 on, runs Marlin, which has none."""


@dataclass(frozen=True)
class AutoAwq:
    """What AutoAWQ's fused modules lay out for the whole sequence."""

    rotary_positions: int
    """Positions in each layer's table of rotations for each position of the cache."""
    source: str


AUTOAWQ: tuple[tuple[tuple[int, ...], AutoAwq], ...] = (
    ((0,), AutoAwq(2, "AutoAWQ <= 0.2.6, RoPE: precompute_freqs_cis(head size, max_seq_len * 2)")),
    ((0, 2, 7), AutoAwq(1, "AutoAWQ 0.2.7, RoPE: precompute_freqs_cis(head size, max_seq_len)")),
)

LITGPT_DEQUANTISED_COPIES: tuple[tuple[tuple[int, ...], int], ...] = (((0,), 2), ((0, 3), 1))
"""bitsandbytes 0.41 unpacks a matrix of 4 bits to float16, then casts it; from LitGPT 0.3 on (bitsandbytes 0.42 and
Fabric's BitsandbytesPrecision) it unpacks to the type asked for."""


@dataclass(frozen=True)
class CrossEntropy:
    """Peak bytes per token of head and loss: vocabulary entries and hidden elements."""

    per_vocabulary: float
    per_hidden: float
    source: str

    def bytes_per_token(self, vocabulary: int, hidden: int) -> float:
        return self.per_vocabulary * vocabulary + self.per_hidden * hidden


CROSS_ENTROPY: dict[tuple[str, str], tuple[tuple[tuple[int, ...], CrossEntropy], ...]] = {
    ("transformers", "plain"): (
        ((0,), CrossEntropy(12, 8, "4.45: fp32 logits, shifted copy, log-softmax; the 16-bit logits already dropped")),
        ((4, 46), CrossEntropy(14, 6, "4.46 loss_function: the caller still holds the 16-bit logits")),
    ),
    ("transformers", "fused"): (
        ((0,), CrossEntropy(8, 4, "FOAK/unsloth Triton cross-entropy, gradient written in place")),
        ((4, 46), CrossEntropy(10, 4, "as before, and the caller still holds the 16-bit logits")),
    ),
    ("transformers", "fused-loss"): (((0,), CrossEntropy(0, 0, "Liger fused linear cross-entropy: logits by chunks")),),
}

FLOAT32_CROSS_ENTROPY = CrossEntropy(16, 16, "float32: logits, shifted copy, log-softmax, gradient, 4 each")

OWN_TYPE_LOSS = ("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "mpt", "opt")
OWN_TYPE_LOSS_UNTIL = (4, 50)
"""Architectures whose loss does not cast the logits to float32 before transformers 4.50's common loss_function."""
OWN_TYPE_CROSS_ENTROPY: dict[tuple[str, bool], CrossEntropy] = {
    ("plain", False): CrossEntropy(8, 10.7, "logits, shifted copy, log-softmax, gradient, all in the model's own type"),
    ("fused", False): CrossEntropy(6, 10.7, "the same without the gradient's copy"),
    ("plain", True): CrossEntropy(18, 16, "autocast: logits 2, copy 2, float32 copy 4, log-softmax 4, gradients 4 + 2"),
    ("fused", True): CrossEntropy(14, 16, "the same without float32 log-softmax"),
}
"""By kernels, and whether autocast is on. Multiples of the vocabulary from modeling_gpt_bigcode.py; those of hidden
from one slope of fms-acceleration's santacoder runs."""

SOFTCAPPED_LOGITS = ("gemma2",)
SOFTCAP_BYTES = 2
"""Per token and vocabulary entry: final_logit_softcapping keeps tanh's output for the backward pass."""

REPEATS_KEYS_FLASH = ("mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "starcoder2")
REPEATS_KEYS_UNTIL = (4, 48)
"""Architectures that repeat keys and values for all heads before flash attention, until the common attention
interface of transformers 4.48."""


@dataclass(frozen=True)
class TorchtitanLoss:
    """Peak bytes of the loss for each token and vocabulary entry."""

    per_vocabulary: float
    per_vocabulary_compiled: float
    chunks: int
    source: str


TORCHTITAN_LOSS: tuple[tuple[tuple[int, ...], TorchtitanLoss], ...] = (
    ((0,), TorchtitanLoss(14, 14, 8, "torchtitan 2024: logits 2, float32 4, log-softmax 4, its gradient 4, eager")),
    ((2, 7), TorchtitanLoss(14, 4, 8, "torchtitan 2025: the loss is compiled: logits and gradient, 2 each")),
)


@dataclass(frozen=True)
class VllmProfile:
    """The law of vLLM's profile run, from 59 logs of one version and 5 of earlier ones."""

    sampler_bytes: float
    """Per sequence of max_num_seqs and (padded) vocabulary entry: logits and the sampler's sorted copies."""
    non_torch_gib: float
    non_torch_tensor_gib: Mapping[int, float]
    """By tensor degree: NCCL's buffers and custom all-reduce."""
    source: str


VLLM: tuple[tuple[tuple[int, ...], VllmProfile], ...] = (
    (
        (0,),
        VllmProfile(38.0, 1.79, {2: 3.58}, "vllm#10511: all that torch does not hold, the CUDA context with it"),
    ),
    (
        (0, 6, 5),
        VllmProfile(
            38.0,
            0.13,
            {2: 0.55},
            "llm-d version sweep, vLLM 0.15 and 0.16: six models, 37.93 to 38.00; TP 2 from llm-d-benchmark (V1 2025)",
        ),
    ),
    ((0, 17), VllmProfile(14.47, 0.13, {2: 0.55}, "the same sweep from 0.17 on: another sampler")),
    (
        (0, 18),
        VllmProfile(14.47, 0.25, {2: 2.07, 4: 2.17, 8: 2.27}, "llm-d-planner sweep, vLLM 0.19.0; TP 8 not measured"),
    ),
)


@dataclass(frozen=True)
class VllmLimits:
    """What max_num_seqs and max_num_batched_tokens are where nobody asks."""

    small_card_sequences: int
    large_card_sequences: int
    tokens_at_least_context: bool
    """V0: a whole prompt is one batch, unless the context is long enough for chunks."""
    source: str
    chunked_beyond_context: int = 32768
    chunk_tokens: int = 512


VLLM_LIMITS: tuple[tuple[tuple[int, ...], VllmLimits], ...] = (
    ((0,), VllmLimits(256, 256, True, "vLLM 0.6 SchedulerConfig and arg_utils: 512-token chunks beyond 32768")),
    ((0, 7), VllmLimits(256, 256, True, "vLLM 0.7 SchedulerConfig: chunks of 2048", chunk_tokens=2048)),
    ((0, 8), VllmLimits(256, 1024, False, "EngineArgs.get_batch_defaults: cards of 70 GiB and more but the A100")),
)
VLLM_FLOOR_BYTES = round(0.045 * GIB)
VLLM_HIDDEN_COPIES = 1.18
VLLM_PIPELINE_BYTES = round(0.14 * GIB)
VLLM_NON_TORCH_PIPELINE_GIB = 0.07
VLLM_GRAPHS_GIB = (0.36, 0.0158)
"""CUDA graphs (51 piecewise and 51 full sizes): constant, and per layer. Median error 0.07 GiB. Captured when the cache
is laid out already, so beside gpu_memory_utilization's share; from 0.21 on (vllm#30515) an estimate of them counts."""
VLLM_VOCABULARY_PADDING = 64
VLLM_BLOCK_TOKENS = 16
VLLM_ROTARY_CONTEXTS = {"gemma3": 9}
"""Contexts that the rotary tables span where it is not one: Gemma 3 scales positions linearly by 8 in its full layers
(LinearScalingRotaryEmbedding lays out all of them) and has a table of one context for its sliding layers."""
VLLM_MXFP4_PADDING = (256, 64)
"""Hidden and intermediate size of MXFP4 experts are rounded up to these (mxfp4.py, create_weights; hidden size: from
the logged weights of gpt-oss-20b)."""


def at_version(rows: tuple[tuple[tuple[int, ...], Row], ...], version: tuple[int, ...]) -> Row:
    """The last row whose version is not newer than the one asked for."""
    return [row for since, row in rows if since <= version][-1]


CUBLAS_WORKSPACE_BYTES = 8_519_680
CUBLAS_WORKSPACE_HOPPER_BYTES = 32 * MIB
"""Per handle and stream (torch's CUDABlas.cpp); one in a forward pass, one more for the autograd thread."""


HIPBLAS_WORKSPACE_BYTES = 32 * MIB
HIPBLAS_WORKSPACE_MI300_BYTES = 128 * MIB
"""The same on ROCm (torch documentation, HIP semantics, hipBLAS workspaces; since torch 2.6, pytorch#138791)."""
MI300_CAPABILITY = (9, 4)


def cublas_bytes(compute_capability: tuple[int, int], handles: int, vendor: str = "nvidia") -> int:
    """AMD numbers its capabilities by its own count: MI250X is 9.0, MI300X 9.4."""
    if vendor == "amd":
        newer = compute_capability >= MI300_CAPABILITY
        return handles * (HIPBLAS_WORKSPACE_MI300_BYTES if newer else HIPBLAS_WORKSPACE_BYTES)
    one = CUBLAS_WORKSPACE_HOPPER_BYTES if compute_capability >= (9, 0) else CUBLAS_WORKSPACE_BYTES
    return handles * one


CUDA_CONTEXT: tuple[tuple[tuple[int, ...], int], ...] = (((0,), round(1.31 * GIB)), ((1, 13), round(0.51 * GIB)))
"""By torch's version. Before 1.13 all kernels are loaded at once: 1,343 MiB (transformers documentation, model memory
anatomy); since then one by one as they are used: 0.51 GiB on H100 (vLLM logs), 0.3 to 0.6 elsewhere."""
