"""The closed form of memory against the referee: the learned laws and the traced step agree for every architecture."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from clusterlm.cluster import find_gpu
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.planning.laws import Setup, find_law
from clusterlm.planning.memory import phases_per_gpu
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy
from clusterlm.worker.trace import TraceRequest, trace
from clusterlm.worker.trace.learn import learn, likely_sizes
from tests.engines.zoo import ARCHITECTURES, VOCABULARY

GPU = find_gpu("a100-80")
LARGEST_DIFFERENCE = 0.03
ATTENTION_ONLY = ("q_proj", "k_proj", "v_proj", "o_proj")
"""PEFT cannot adapt the router of Llama 4, which all-linear would include."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "phi": {"num_key_value_heads": 4},
    "olmo2": {"num_key_value_heads": 4},
    "falcon": {"alibi": False},
}
"""Where the zoo's model is put together as no published one: laws are read off for those that people use."""
TRAINING = [
    {"task": "train", "method": method, "gradient_checkpointing": checkpointing}
    for method, checkpointing in itertools.product(("full", "lora"), (True, False))
]
INFERENCE = {"task": "generate", "new_tokens": 20}
REAL_MODELS = [
    ("meta-llama/Llama-3.1-8B", {"task": "train", "method": "lora", "gradient_checkpointing": False}),
    ("Qwen/Qwen2.5-7B", {"task": "train", "method": "full", "gradient_checkpointing": True}),
    ("google/gemma-2-9b", {"task": "train", "method": "lora", "gradient_checkpointing": True}),
    ("mistralai/Mixtral-8x7B-v0.1", {"task": "generate", "new_tokens": 100}),
    ("EleutherAI/gpt-neox-20b", {"task": "train", "method": "lora", "gradient_checkpointing": False}),
    ("deepseek-ai/DeepSeek-V3", {"task": "generate", "new_tokens": 100}),
]


def targets(architecture: str) -> tuple[str, ...]:
    return ATTENTION_ONLY if architecture == "llama4_text" else ("all-linear",)


def tiny_config(architecture: str) -> dict[str, Any]:
    """Windows of a usual size; rows beyond them have tests of their own."""
    windows = {key: 4096 for key in WINDOWS if key in ARCHITECTURES[architecture]}
    tokens = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    published = AS_PUBLISHED.get(architecture, {})
    return {"model_type": architecture, **tokens, **ARCHITECTURES[architecture], **windows, **published}


def closed_form(config: dict[str, Any], case: dict[str, Any], dtype: str, rows: int, tokens: int) -> int:
    """Bytes of tensors at the highest phase: cuBLAS's workspaces are no tensors of the trace."""
    workload = Workload(
        task=case["task"],
        method=case.get("method", "full"),
        dtype=dtype,
        batch=rows,
        sequence_tokens=tokens,
        new_tokens=case.get("new_tokens", 0),
        checkpointing=case.get("gradient_checkpointing", False),
        autocast=case.get("autocast", False),
        optimizer="adamw-fused",
        lora_targets=targets(config["model_type"]),
    )
    (phases,) = phases_per_gpu(shape_from_config(config, "tested"), workload, Strategy(), GPU)
    workspace = cublas_bytes(GPU.compute_capability, handles=2 if workload.trains else 1)
    return max(phase.bytes for phase in phases[1:]) - workspace


def traced(config: dict[str, Any], case: dict[str, Any], dtype: Any, rows: int, tokens: int) -> int:
    adapted = targets(config["model_type"])
    request = TraceRequest(
        config=config,
        sequence_tokens=tokens,
        batch=rows,
        dtype=dtype,
        optimizer="adamw_fused",
        lora_targets=adapted if len(adapted) > 1 else adapted[0],
        **case,
    )
    return trace(request).peak_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "case", [INFERENCE, *TRAINING], ids=lambda case: "-".join(str(value) for value in case.values())
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_closed_form_and_trace_agree_on_every_architecture(architecture: str, case: dict[str, Any], dtype: str) -> None:
    config = tiny_config(architecture)
    rows = 1 if case["task"] == "generate" else 3
    told = traced(config, case, dtype, rows, 150)
    assert closed_form(config, case, dtype, rows, 150) == pytest.approx(told, rel=LARGEST_DIFFERENCE)


@pytest.mark.parametrize(("method", "dtype"), [("full", "float32"), ("lora", "bfloat16")])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral"])
def test_closed_form_and_trace_agree_under_autocast(architecture: str, method: str, dtype: str) -> None:
    config = tiny_config(architecture)
    case = {"task": "train", "method": method, "gradient_checkpointing": True, "autocast": True}
    told = traced(config, case, dtype, 3, 150)
    assert closed_form(config, case, dtype, 3, 150) == pytest.approx(told, rel=LARGEST_DIFFERENCE)


@pytest.mark.parametrize(
    "case", [INFERENCE, TRAINING[0], TRAINING[3]], ids=lambda case: "-".join(map(str, case.values()))
)
@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_closed_form_and_trace_agree_beyond_a_sliding_window(architecture: str, case: dict[str, Any]) -> None:
    config = tiny_config(architecture) | {"sliding_window": 24}
    told = traced(config, case, "bfloat16", 1, 150)
    assert closed_form(config, case, "bfloat16", 1, 150) == pytest.approx(told, rel=LARGEST_DIFFERENCE)


@pytest.mark.parametrize(("name", "case"), REAL_MODELS)
def test_closed_form_and_trace_agree_on_models_of_real_size(name: str, case: dict[str, Any]) -> None:
    config = catalogue_config(name)
    assert config is not None
    config.pop("quantization_config", None)  # the trace computes in the type that it is told
    told = traced(config, case, "bfloat16", 1, 1024)
    assert closed_form(config, case, "bfloat16", 1, 1024) == pytest.approx(told, rel=LARGEST_DIFFERENCE)


def changes(law: dict[str, Any]) -> list[Any]:
    """What each region leaves behind; which of its moments are kept depends on the sizes that are thought likely."""
    found: list[Any] = []
    for region in law["regions"]:
        parts = region["layers"].values() if "layers" in region else [region]
        found += [part.get("begin", part.get("after")) for part in parts]
    return found


def test_shipped_law_is_what_the_installed_libraries_do() -> None:
    name, setup = "meta-llama/Llama-3.1-8B", Setup("train", "lora", checkpointing=True)
    config = catalogue_config(name)
    assert config is not None
    shape = shape_from_config(config, name)
    shipped = find_law(shape, setup)
    assert shipped is not None and shipped.exact
    assert changes(learn(config, setup, likely_sizes([shape]))) == changes(shipped.setup)


def test_adapters_on_the_attention_alone_keep_less_than_on_all_matrices() -> None:
    config = catalogue_config("meta-llama/Llama-3.1-8B")
    assert config is not None
    request = TraceRequest(
        config=config,
        task="train",
        method="lora",
        sequence_tokens=512,
        optimizer="adamw_fused",
        lora_targets=ATTENTION_ONLY,
    )
    workload = Workload(
        task="train", method="lora", sequence_tokens=512, optimizer="adamw-fused", lora_targets=ATTENTION_ONLY
    )
    (phases,) = phases_per_gpu(shape_from_config(config, "tested"), workload, Strategy(), GPU)
    told = max(phase.bytes for phase in phases) - cublas_bytes(GPU.compute_capability, handles=2)
    assert told == pytest.approx(trace(request).peak_bytes, rel=LARGEST_DIFFERENCE)
