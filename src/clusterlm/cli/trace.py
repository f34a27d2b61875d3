"""Asking the referee: the real model class, traced in a process of its own, as the login-node side has no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.planning.case import Case
from clusterlm.planning.settle import settle
from clusterlm.worker.trace.request import Trace, TraceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clusterlm.cluster import Gpu
    from clusterlm.model.shape import ModelShape
    from clusterlm.planning.wishes import Wishes

OPTIMIZERS = {"adamw": "adamw", "adamw-fused": "adamw_fused", "sgd": "sgd", "adafactor": "adafactor"}


def traced_case(config: Mapping[str, Any], shape: ModelShape | None, gpu: Gpu, wishes: Wishes) -> Trace:
    """UsageError where the wishes hold something that is not traced; ClusterlmError with what the tracer said."""
    case = settle(shape or _sizes_unknown(config), gpu, wishes)
    return run_trace(trace_request(config, case))


def trace_request(config: Mapping[str, Any], case: Case) -> TraceRequest:
    workload, strategy = case.workload, case.strategy
    _refuse_untraced(case)
    fully = workload.method == "full"
    return TraceRequest(
        config={key: value for key, value in config.items() if key != "quantization_config"},
        task="train" if workload.trains else "generate",
        sequence_tokens=workload.sequence_tokens,
        batch=workload.batch,
        dtype="float32" if workload.autocast and fully else workload.dtype,  # type: ignore[arg-type]
        autocast=workload.autocast,
        attention="eager" if workload.attention == "eager" else "auto",
        new_tokens=max(1, workload.new_tokens),
        method="full" if fully else "lora",
        gradient_checkpointing=workload.checkpointing,
        optimizer=OPTIMIZERS[workload.optimizer],  # type: ignore[arg-type]
        foreach=workload.optimizer == "adamw",
        lora_rank=workload.lora_rank,
        lora_targets="all-linear" if "all-linear" in workload.lora_targets else workload.lora_targets,
        fsdp_ranks=strategy.gpus if strategy.sharding == "fsdp2" else 1,
    )


def _refuse_untraced(case: Case) -> None:
    workload, strategy = case.workload, case.strategy
    untraced = {
        "--task embed": workload.task == "embed",
        "--engine vllm": workload.software.engine == "vllm",
        "quantised weights": workload.quantise is not None or case.shape.quantisation is not None,
        "--attention flash": workload.attention == "flash",
        f"--optimizer {workload.optimizer}": workload.trains and workload.optimizer not in OPTIMIZERS,
        "--strategy tensor": strategy.tensor_degree > 1,
        "--strategy pipeline": strategy.pipeline_degree > 1,
        f"--strategy {strategy.sharding}": strategy.sharding not in ("none", "fsdp2"),
        "--offload": strategy.offload != "none",
    }
    for name, asked in untraced.items():
        if asked:
            hint = "traced are: one GPU or fsdp, full or LoRA, generate or train; without --trace it is counted"
            raise UsageError(f"does not trace {name}", where="--trace", hint=hint)


def run_trace(request: TraceRequest) -> Trace:
    """Raises ClusterlmError with the last words of the tracer where it fails."""
    command = [sys.executable, "-m", "clusterlm.worker.trace"]
    result = subprocess.run(command, input=json.dumps(request.to_json()), capture_output=True, text=True)
    if result.returncode:
        raise _what_it_said(result.stderr, result.returncode)
    return Trace.from_json(json.loads(result.stdout))


def _what_it_said(stderr: str, status: int) -> ClusterlmError:
    """Its own error with its hint; else the last line of what Python said."""
    _, found, said = stderr.rpartition("error: ")
    problem, _, hint = said.strip().partition("\nhint: ")
    if found and "Traceback" not in stderr:
        return ClusterlmError(problem, where="--trace", hint=hint or None)
    last = (stderr.strip().splitlines() or [f"exit status {status}"])[-1]
    hint = "pip install 'clusterlm[run]', or leave --trace out" if "No module named" in last else ""
    return ClusterlmError(f"the tracer failed: {last}", where="--trace", hint=hint or None)


def _sizes_unknown(config: Mapping[str, Any]) -> ModelShape:
    """Enough of a model to settle wishes with, where its architecture is not in the table."""
    from clusterlm.model.config import Config
    from clusterlm.model.decoder import dtype_of
    from clusterlm.model.shape import ModelShape

    values = Config(config, str(config.get("model_type")))
    return ModelShape(
        name=values.model,
        architecture=values.model,
        hidden_size=0,
        vocabulary_size=0,
        context_tokens=values.optional_integer("max_position_embeddings"),
        layers=(),
        embedding_parameters=0,
        head_parameters=0,
        final_norm_parameters=0,
        tied=False,
        dtype=dtype_of(values),
    )
