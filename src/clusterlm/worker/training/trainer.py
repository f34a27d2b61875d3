"""TRL's trainer, with our steps, our checkpoints and a held-out loss that counts every token once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch.utils.data import DataLoader
from transformers.integrations.integration_utils import TensorBoardCallback
from trl.trainer.sft_trainer import SFTTrainer

from clusterlm.worker.training.data.lessons import Lesson
from clusterlm.worker.training.data.rows import Rows
from clusterlm.worker.training.data.steps import StepBatches
from clusterlm.worker.training.state.saving import Saver
from clusterlm.worker.training.watch.reporters import guarded
from clusterlm.worker.training.work import Say

Carried = Callable[["Trainer"], None]
MOST_LOGITS_BYTES = 2**28
"""On a CPU; of more TRL's head keeps fewer in memory."""


class Trainer(SFTTrainer):
    def __init__(
        self,
        *,
        learned: Lesson,
        held_out: Lesson | None,
        tell: Callable[[int, float], None],
        say: Say,
        saver: Saver,
        first_step: int,
        carried: Carried | None = None,
        **arguments: Any,
    ) -> None:
        """`first_step`: from 0, of those still to do. `carried`: brings in a checkpoint that the libraries cannot load.

        `tell` is called with a step and the loss on what is held out.
        """
        super().__init__(train_dataset=learned.tokens.rows, data_collator=learned.collator, **arguments)
        self.learned = learned
        self._held_out = held_out
        self._tell = tell
        self._saver = saver
        self._first_step = first_step
        self._carried = carried
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(Path(str(self.args.output_dir)).with_name("tensorboard"))
        self.callback_handler.callbacks = [guarded(callback, say) for callback in self.callback_handler.callbacks]

    # -------------------------------------------------------------------------------------------------------- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.learned, self._first_step)

    def _loader(self, lesson: Lesson, first_step: int = 0) -> DataLoader[Any]:
        batches: Any = StepBatches(lesson.shares, self.args.process_index, first_step)
        # A generator of its own: to begin anew at a later step draws no number from that of the dropout.
        return DataLoader(
            Rows(lesson.tokens), batch_sampler=batches, collate_fn=lesson.collator, generator=torch.Generator()
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
        """TRL's head computes the logits again in the backward pass, so as not to keep them, and measures more than the
        loss. A CPU without its kernel does better to keep them while they are few.
        """
        ids = inputs["input_ids"]
        own: Any = self.model
        logits_bytes = 4 * ids.numel() * own.config.get_text_config().vocab_size
        is_chunked = ids.device.type != "cpu" or self.aux_loss_enabled or logits_bytes > MOST_LOGITS_BYTES
        compute: Any = super().compute_loss if is_chunked else partial(transformers.Trainer.compute_loss, self)
        return compute(model, inputs if is_chunked else {**inputs, "use_cache": False}, *arguments, **settings)

    def evaluate(self, *arguments: Any, **settings: Any) -> dict[str, float]:
        """What the trainer calls between two steps, and we before the first."""
        began = time.monotonic()
        loss = self.held_out_loss()
        if loss is None:
            return {}
        self._tell(self.state.global_step, loss)
        # Not TRL's log, which would put what it counts of the steps of training beside it.
        transformers.Trainer.log(self, {"eval_loss": loss})
        metrics = {"eval_loss": loss, "eval_runtime": time.monotonic() - began}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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

    def save_model(self, *arguments: Any, **settings: Any) -> None:
        """Where the weights are cut a checkpoint holds them already, each process's part."""
        if not self.is_deepspeed_enabled:
            super().save_model(*arguments, **settings)

    def _load_from_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        if self._carried is None:
            super()._load_from_checkpoint(*arguments, **settings)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepare: Any = super()._prepare_for_training
        if self._carried is None:
            return prepare(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = prepare(max_steps, train_dataloader, None)
        self._carried(self)
        return prepared

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saver.unfinished(self.state.global_step))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All processes write their files; without TRL's model card."""
        write = partial(transformers.Trainer._save_checkpoint, self, model, trial)
        self._saver.save(self.state.global_step, self.args.world_size, write)
