"""The closed form of memory against the referee: the learned laws and the traced step agree for every architecture."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from clusterlm.cluster import find_gpu
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.planning.memory import phases_per_gpu
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy
from clusterlm.worker.trace import TraceRequest, trace
from tests.engines.zoo import ARCHITECTURES, VOCABULARY

GPU = find_gpu("a100-80")
LARGEST_DIFFERENCE = 0.03
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


def tiny_config(architecture: str) -> dict[str, Any]:
    sizes = ARCHITECTURES[architecture]
    return {"model_type": architecture, "vocab_size": VOCABULARY, **sizes}


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
        optimizer="adamw-fused",
    )
    (phases,) = phases_per_gpu(shape_from_config(config, "tested"), workload, Strategy(), GPU)
    workspace = cublas_bytes(GPU.compute_capability, handles=2 if workload.trains else 1)
    return max(phase.bytes for phase in phases[1:]) - workspace


def traced(config: dict[str, Any], case: dict[str, Any], dtype: Any, rows: int, tokens: int) -> int:
    request = TraceRequest(
        config=config, sequence_tokens=tokens, batch=rows, dtype=dtype, optimizer="adamw_fused", **case
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


@pytest.mark.parametrize(("name", "case"), REAL_MODELS)
def test_closed_form_and_trace_agree_on_models_of_real_size(name: str, case: dict[str, Any]) -> None:
    config = catalogue_config(name)
    assert config is not None
    told = traced(config, case, "bfloat16", 1, 1024)
    assert closed_form(config, case, "bfloat16", 1, 1024) == pytest.approx(told, rel=LARGEST_DIFFERENCE)
