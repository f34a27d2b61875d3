"""Rows of answer.ai's fsdp_qlora: train.py with Llama-2-7B on two GPUs."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rows.conditions import Question, gpu_of, quantised, shape_of, whole_number
from clusterlm.planning.workload import Software, Workload
from clusterlm.strategy import Sharding, Strategy

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "gate_proj")
"""train.py: lora_target_modules "all"; lora_dropout 0.1."""


def is_fsdp_qlora(asked: Mapping[str, str]) -> bool:
    return asked["software"].startswith("fsdp_qlora")


def read_fsdp_qlora(asked: Mapping[str, str]) -> Question:
    """Everything in 16 bits, adapters too; transformers of March 2024."""
    count = whole_number(asked, "n_gpus")
    scheme = quantised(asked)
    sharding: Sharding = "fsdp1" if "FSDP" in asked["parallelism"] else "ddp"
    workload = Workload(
        task="train",
        method="qlora" if scheme else "lora",
        batch=whole_number(asked, "micro_batch"),
        sequence_tokens=whole_number(asked, "seq_len"),
        checkpointing="yes" in asked["grad_ckpt"],
        quantise=scheme,
        lora_rank=64,
        lora_dropout=True,
        lora_targets=TARGETS,
        adapter_dtype="bfloat16",
        software=Software(version=(4, 38), torch=(2, 2)),
    )
    offload = "cpu" if "CPU offload" in asked["parallelism"] else "none"
    strategy = Strategy(gpus=count, gpus_per_node=count, sharding=sharding, offload=offload)  # type: ignore[arg-type]
    return Question(shape_of(asked), workload, strategy, gpu_of(asked))


READERS = ((is_fsdp_qlora, read_fsdp_qlora),)
