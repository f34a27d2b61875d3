"""A TrainSpec in the words of TRL's trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from trl.trainer.sft_config import SFTConfig

from clusterlm.spec import TrainSpec
from clusterlm.worker.training.data.steps import Shares
from clusterlm.worker.training.precision import Precision

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw-fused": "adamw_torch_fused",
    "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
CHECKPOINTING: str = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in SFTConfig.__dataclass_fields__
)
"""What this version of transformers calls it."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def arguments_of(
    spec: TrainSpec, shares: Shares, precision: Precision, folder: Path, spread: dict[str, Any]
) -> SFTConfig:
    """`folder`: of the checkpoints; `spread`: what the strategy adds."""
    count = shares.steps.count
    is_checkpointed = bool(spec.gradient_checkpointing) and "fsdp" not in spread  # FSDP has its own, see strategies
    half = {"bf16": precision.autocast is torch.bfloat16, "fp16": precision.autocast is torch.float16}
    further: dict[str, Any] = {CHECKPOINTING: is_checkpointed, **half, **spread}
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=count,
        per_device_train_batch_size=shares.rows,
        gradient_accumulation_steps=shares.micro_batches,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        learning_rate=spec.rate,
        lr_scheduler_type=SCHEDULES[spec.schedule],
        warmup_steps=math.ceil(spec.warm_up * count),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        optim=OPTIMIZERS[spec.optimizer],
        seed=spec.seed,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        # Our loader deals the batches out, and begins at the step that is next.
        ignore_data_skip=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=list(spec.report_to) or "none",
        disable_tqdm=True,
        **further,
    )
    if arguments.n_gpu > 1:
        # A process that is alone sees all GPUs of its node. It works on the first: as the trainer says it itself where
        # a model is laid over several.
        arguments._n_gpu = 1
    return arguments
