"""The cases of benchmarks.memory_on_gpu: which models take which steps, and what the planner says of each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.cluster import Gpu
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.catalogue import catalogue_config
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.planning.footprint import Footprint
from clusterlm.planning.memory import footprint
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy
from clusterlm.worker.trace import TraceRequest

MODELS = (
    "openai-community/gpt2",
    "Qwen/Qwen2.5-0.5B",
    "meta-llama/Llama-3.2-1B",
    "google/gemma-2-2b",
    "Qwen/Qwen2.5-3B",
    "meta-llama/Llama-3.1-8B",
)
MOST_PARAMETERS_IN_FLOAT32 = 2e9
RANK = 16
PHASES = {
    "prefill": "prefill",
    "last token": "decode",
    "forward": "forward",
    "backward": "backward",
    "optimizer step": "optimizer",
}
"""The planner's names, and the referee's."""


@dataclass(frozen=True)
class Case:
    """One step to measure. `model`: of the catalogue, or the path of a config.json. `dtype` may be autocast."""

    model: str
    task: str
    method: str = "full"
    checkpointing: bool = False
    dtype: str = "bfloat16"
    batch: int = 1
    tokens: int = 1024
    new_tokens: int = 0

    @property
    def title(self) -> str:
        if self.task == "generate":
            return f"generate {self.dtype}"
        return f"{self.method} {self.dtype}{', checkpointing' if self.checkpointing else ''}"


def cases(models: tuple[str, ...]) -> Iterator[Case]:
    for model in models:
        parameters = shape_from_config(config(model), model).parameters
        yield Case(model, "generate", new_tokens=64)
        types = ["bfloat16", "autocast"]
        if parameters < MOST_PARAMETERS_IN_FLOAT32:
            types.append("float32")
            yield Case(model, "generate", dtype="float32", new_tokens=64)
        for dtype, checkpointing in itertools.product(types, (False, True)):
            yield Case(model, "train", "full", checkpointing, dtype, batch=2)
        # Four bits are packed as transformers packs nn.Linear; gpt2's matrices are its own Conv1D.
        adapted = ("lora",) if config(model)["model_type"] == "gpt2" else ("lora", "qlora")
        for method, checkpointing in itertools.product(adapted, (False, True)):
            yield Case(model, "train", method, checkpointing, batch=2)


def config(model: str) -> dict[str, Any]:
    found = catalogue_config(model)
    if found is None:
        found = json.loads(Path(model).read_text(encoding="utf-8"))
    return dict(found.get("text_config", found))


def config_of(case: Case) -> dict[str, Any]:
    return config(case.model)


def request_of(case: Case) -> TraceRequest:
    """What the referee traces, and the benchmark's process runs; the bits of QLoRA are not in it."""
    dtype: Any = "float32" if case.dtype == "float32" or stores_in_float32(case) else "bfloat16"
    task: Any = case.task
    return TraceRequest(
        config=config_of(case),
        task=task,
        sequence_tokens=case.tokens,
        batch=case.batch,
        dtype=dtype,
        new_tokens=max(case.new_tokens, 1),
        method="full" if case.method == "full" else "lora",
        autocast=case.dtype == "autocast",
        gradient_checkpointing=case.checkpointing,
        optimizer="adamw_fused",
        lora_rank=RANK,
    )


def stores_in_float32(case: Case) -> bool:
    return case.dtype == "autocast" and case.method == "full"


def predicted(case: Case, gpu: Gpu) -> Footprint:
    """By the closed form."""
    task: Any = case.task
    method: Any = case.method
    workload = Workload(
        task=task,
        method=method,
        dtype="bfloat16" if case.dtype == "autocast" else case.dtype,
        autocast=case.dtype == "autocast",
        batch=case.batch,
        sequence_tokens=case.tokens,
        new_tokens=case.new_tokens,
        checkpointing=case.checkpointing,
        optimizer="adamw-fused",
        quantise="nf4" if case.method == "qlora" else None,
        lora_rank=RANK,
    )
    return footprint(shape_from_config(config_of(case), case.model), workload, Strategy(), gpu)


def phases_of(found: Footprint) -> dict[str, int]:
    """By the referee's names, with the workspaces of cuBLAS."""
    return {PHASES[phase.name]: phase.bytes for phase in found.phases if phase.name in PHASES}


def workspace_bytes(case: Case, gpu: Gpu) -> int:
    """In torch's counters and the closed form, and in no trace."""
    return cublas_bytes(gpu.compute_capability, handles=2 if case.task == "train" else 1)
