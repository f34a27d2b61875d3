"""TrainSpec: a model and texts in, the model that has learned them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from clusterlm.spec.base import TaskSpec

Method = Literal["full", "lora", "qlora"]
LEARNING_RATES: dict[Method, float] = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4}
"""TRL's default, and ten times it for adapters. Source: https://thinkingmachines.ai/blog/lora/ (2025)"""


class TrainSpec(TaskSpec):
    """None means: as fits best. `input` holds what is learned, `output` is the folder of the model that comes out."""

    NOT_IN_RESULTS: ClassVar[frozenset[str]] = frozenset(
        (
            "output",
            "merge",
            "strategy",
            "offload",
            "deepspeed_config",
            "accelerate_config",
            "gpus",
            "micro_batch",
            "gradient_checkpointing",
            "packing",
            "report_to",
            "checkpoint_steps",
            "checkpoint_minutes",
            "keep_checkpoints",
            "eval_steps",
        )
    )

    task: Literal["train"] = "train"

    eval: str | None = None
    """Texts that are held out: a file; `eval_fraction` takes them from the input."""
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two looks at the held-out texts; None: before the first, and after the last."""

    method: Method = "full"
    lora_rank: Annotated[int, Field(ge=1)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] | None = None
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: tuple[Annotated[str, Field(min_length=1)], ...] = ("all-linear",)
    merge: bool = False

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["auto", "sdpa", "flash", "eager"] = "auto"
    gradient_checkpointing: bool | None = None
    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd"] = "adamw-fused"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    epochs: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    global_batch_size: Annotated[int, Field(ge=1)] = 64
    """Sequences of one optimizer step, over all devices."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Sequences of full length at once on one device."""
    sequence_length: Annotated[int, Field(ge=2)] | None = None
    too_long: Literal["auto", "split", "truncate", "drop"] = "auto"
    """What becomes of a text beyond it. auto: plain texts are split, others truncated."""
    packing: bool | None = None
    seed: int = 0

    strategy: Literal["auto", "single", "ddp", "fsdp", "zero1", "zero2", "zero3"] = "auto"
    offload: Literal["none", "optimizer-cpu", "cpu"] = "none"
    deepspeed_config: str | dict[str, Any] | None = None
    """A user's own file in place of both, or its content, as runs keep it."""
    accelerate_config: str | dict[str, Any] | None = None
    gpus: Annotated[int, Field(ge=1)] | None = None

    checkpoint_steps: Annotated[int, Field(ge=1)] | None = None
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 15.0
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainSpec:
        if problems := list(self._contradictions()):
            raise ValueError("; ".join(problems))
        return self

    def _contradictions(self) -> Iterator[str]:
        known = type(self).model_fields
        if self.max_steps is not None and self.epochs != 1:
            yield "epochs and max_steps both say how long: leave one of them out"
        if self.eval is not None and self.eval_fraction:
            yield "eval and eval_fraction both say what is held out: leave one of them out"
        if self.eval_steps is not None and self.eval is None and not self.eval_fraction:
            yield "eval_steps: nothing is held out; give eval or eval_fraction"
        if self.deepspeed_config is not None and self.accelerate_config is not None:
            yield "deepspeed_config and accelerate_config both say how processes share the model: leave one of them out"
        of_adapters = [name for name in known if name.startswith("lora_") or name == "merge"]
        given = [name for name in of_adapters if getattr(self, name) != known[name].default]
        if self.method == "full" and given:
            yield f"{', '.join(given)}: belongs to LoRA, and method is full"
        if self.method == "full" and self.dtype == "float16":
            yield (
                "dtype = 'float16': weights of float16 cannot be trained, for small changes are lost;"
                " auto keeps them in float32 and computes in 16 bits"
            )
        if self.strategy == "single" and (self.gpus or 1) > 1:
            yield f"strategy = 'single': is one process, and gpus is {self.gpus}"
        if self.gpus is not None and self.gpus > self.global_batch_size:
            yield (
                f"global_batch_size = {self.global_batch_size}: {self.gpus} processes share these sequences,"
                f" and some would be idle; at least {self.gpus}, or fewer gpus"
            )

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]

    @property
    def alpha(self) -> int:
        """LoRA's scale, twice the rank where it was not given."""
        return self.lora_alpha or 2 * self.lora_rank
