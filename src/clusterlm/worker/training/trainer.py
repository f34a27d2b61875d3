"""TRL's trainer, with our steps, our checkpoints and a held-out loss that counts every token once."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch.utils.data import DataLoader
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.sft_trainer import SFTTrainer

from clusterlm.worker.training import checkpoints
from clusterlm.worker.training.checkpoints import UNFINISHED, Checkpoint
from clusterlm.worker.training.rows import Collator, Rows
from clusterlm.worker.training.steps import Shares, StepBatches
from clusterlm.worker.training.tokens import Tokens


@dataclass(frozen=True)
class Lesson:
    """What is learned, and how the processes share it."""

    tokens: Tokens
    shares: Shares
    collator: Collator


class Trainer(SFTTrainer):
    def __init__(
        self, *, learned: Lesson, held_out: Lesson | None, folder: Path, keep: int, first_step: int, **arguments: Any
    ) -> None:
        """`folder`: of the checkpoints, of which `keep` are kept; `first_step`: from 0, of those still to do."""
        super().__init__(train_dataset=learned.tokens.rows, data_collator=learned.collator, **arguments)
        self.learned = learned
        self._held_out = held_out
        self._folder = folder
        self._keep = keep
        self._first_step = first_step

    # -------------------------------------------------------------------------------------------------------- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.learned, self._first_step)

    def _loader(self, lesson: Lesson, first_step: int = 0) -> DataLoader[Any]:
        batches: Any = StepBatches(lesson.shares, self.args.process_index, first_step)
        return DataLoader(Rows(lesson.tokens), batch_sampler=batches, collate_fn=lesson.collator)

    def held_out_loss(self) -> float | None:
        """Nats per token that is to be predicted, over all held-out texts; None where there are none."""
        if self._held_out is None:
            return None
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        try:
            for batch in self._loader(self._held_out):
                inputs = self._prepare_inputs(batch)
                with torch.no_grad(), self.compute_loss_context_manager():
                    found = model(**inputs, use_cache=False, fused_lm_head=True)
                total += torch.tensor([-found.log_probs.double().sum().item(), found.label_mask.sum().item()])
        finally:
            model.train(was_training)
        if dist.is_initialized():
            dist.all_reduce(total)
        nats, tokens = total.tolist()
        return float(nats / tokens)

    # ------------------------------------------------------------------------------------------------- checkpoints

    def create_model_card(self, *arguments: Any, **settings: Any) -> None:
        """The result has a card of its own; a checkpoint needs none."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._unfinished)

    @property
    def _unfinished(self) -> Path:
        path = checkpoints.folder_of(self._folder, self.state.global_step)
        return path.with_name(path.name + UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All processes write their files, then the first reads them back and gives the checkpoint its name."""
        if self.args.process_index == 0:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        self._wait()
        transformers.Trainer._save_checkpoint(self, model, trial)
        self._wait()
        if self.args.process_index == 0:
            self.seal()
        self._wait()

    def seal(self) -> Checkpoint:
        step = self.state.global_step
        written = self._unfinished / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        path = checkpoints.folder_of(self._folder, step)
        sealed = checkpoints.seal(written, path, step, self.args.world_size)
        checkpoints.prune(self._folder, self._keep)
        return sealed

    def _wait(self) -> None:
        if dist.is_initialized():
            dist.barrier()


def perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
