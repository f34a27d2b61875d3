"""Wishes: what the user asks of a plan, by the names of the flags; None is 'as you think best'."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_args

from clusterlm.errors import UsageError, did_you_mean
from clusterlm.planning.weights import SCHEMES
from clusterlm.planning.workload import Optimizer

TASKS = ("generate", "embed", "train")
METHODS = ("full", "lora", "qlora")
DTYPES = ("auto", "bfloat16", "float16", "float32")
STRATEGIES = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3", "tensor", "pipeline")
OFFLOADS = ("none", "optimizer-cpu", "cpu", "nvme")
ENGINES = ("transformers", "vllm")
ATTENTIONS = ("sdpa", "flash", "eager")
PREFERENCES = ("cheapest", "fastest", "soonest")
OPTIMIZERS = get_args(Optimizer)
QUANTISATIONS = tuple(SCHEMES)

CHOICES: dict[str, tuple[str, ...]] = {
    "task": TASKS,
    "method": METHODS,
    "dtype": DTYPES,
    "strategy": STRATEGIES,
    "offload": OFFLOADS,
    "engine": ENGINES,
    "attention": ATTENTIONS,
    "optimizer": OPTIMIZERS,
    "quantize": QUANTISATIONS,
    "prefer": PREFERENCES,
}
COUNTS = (
    "micro_batch",
    "batch",
    "sequence_length",
    "new_tokens",
    "gpus",
    "gpus_per_node",
    "copies",
    "nodes",
    "lora_rank",
    "keep_checkpoints",
    "dataset_tokens",
    "epochs",
    "records",
)
OF_TRAINING = (
    "method",
    "micro_batch",
    "gradient_checkpointing",
    "autocast",
    "optimizer",
    "lora_rank",
    "lora_targets",
    "offload",
    "keep_checkpoints",
    "dataset_tokens",
    "epochs",
)


@dataclass(frozen=True)
class Wishes:
    """What was asked for; None where it was left open."""

    task: str | None = None
    method: str | None = None
    micro_batch: int | None = None
    batch: int | None = None
    """Training: sequences of one optimizer step over all GPUs. Otherwise: sequences at once on one GPU."""
    sequence_length: int | None = None
    """Tokens of a sequence in training, of a prompt otherwise."""
    new_tokens: int | None = None
    dtype: str | None = None
    autocast: bool | None = None
    quantize: str | None = None
    strategy: str | None = None
    offload: str | None = None
    gpus: int | None = None
    gpus_per_node: int | None = None
    copies: int | None = None
    """Generation and embedding: whole copies of the model, each cut over `gpus / copies` GPUs."""
    gradient_checkpointing: bool | None = None
    optimizer: str | None = None
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None
    engine: str | None = None
    attention: str | None = None
    keep_checkpoints: int | None = None
    dataset_tokens: int | None = None
    epochs: int | None = None
    records: int | None = None
    """Prompts or texts in the input file."""
    gpu: str | None = None
    partition: str | None = None
    nodes: int | None = None
    prefer: str | None = None

    def __post_init__(self) -> None:
        """UsageError for a word that is no choice, a count below one, and a wish that the task has no use for."""
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UsageError(f"{value!r} is no choice", where=flag(name), hint=did_you_mean(value, choices))
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{value} is less than 1", where=flag(name))
        self._refuse_what_the_task_lacks()

    def _refuse_what_the_task_lacks(self) -> None:
        given = self.given()
        if self.asked_task == "train":
            for name in ("copies", "records"):
                if name in given:
                    raise UsageError("belongs to generating and embedding", where=flag(name), hint="leave it out")
            if "new_tokens" in given:
                raise UsageError("training makes no new tokens", where="--new-tokens", hint="--sequence-length")
            if self.engine == "vllm":
                raise UsageError("vLLM does not train", where="--engine", hint="leave --engine out")
            for name in ("lora_rank", "lora_targets"):
                if name in given and self.method in (None, "full"):
                    raise UsageError("belongs to LoRA", where=flag(name), hint="--method lora, or qlora")
            if self.autocast is not None and (self.strategy or "").startswith("zero"):
                raise UsageError("DeepSpeed mixes types itself", where="--autocast", hint="leave it out: see --dtype")
            return
        for name in OF_TRAINING:
            if name in given and given[name] != "none":
                raise UsageError(
                    f"belongs to training; the task is {self.asked_task}", where=flag(name), hint="--task train"
                )
        if self.asked_task == "embed" and "new_tokens" in given:
            raise UsageError("embedding makes no new tokens", where="--new-tokens", hint="--task generate")
        if self.asked_task == "embed" and self.engine == "vllm":
            raise UsageError("embedding is counted for transformers only", where="--engine vllm", hint="leave it out")
        if self.engine == "vllm" and "attention" in given:
            raise UsageError("vLLM chooses its own kernels", where="--attention", hint="leave it out")

    @property
    def asked_task(self) -> str:
        """A training method without a task says enough."""
        return self.task or ("train" if self.method else "generate")

    def given(self) -> dict[str, Any]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def said(name: str, value: Any) -> str:
    """The wish as it is given on the command line: `--gpus 8`, `--no-gradient-checkpointing`."""
    if isinstance(value, bool):
        return flag(name) if value else f"--no-{flag(name)[2:]}"
    return f"{flag(name)} {value}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
