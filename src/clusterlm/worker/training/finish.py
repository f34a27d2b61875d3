"""From a trainer that is done to the result: gathered from all processes, written whole, then given its name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM

from clusterlm.runs.first_steps import first_steps_of
from clusterlm.worker.training.data.tokens import Tokens
from clusterlm.worker.training.lines import read_lines
from clusterlm.worker.training.result import Learned, card, curve_of, unfinished_of, write_result
from clusterlm.worker.training.strategies import load_whole_from_now_on, whole_weights
from clusterlm.worker.training.trainer import Trainer
from clusterlm.worker.training.work import HELD_OUT, METRICS, Work

ADAPTER = "adapter"
"""Folder beside a merged model."""


def write_model(work: Work, trainer: Trainer, tokenizer: Any, learned: Tokens) -> None:
    """The model, the tokenizer and the card; whole, then under its name."""
    output = work.asked.output_path
    unfinished = unfinished_of(output)
    if work.is_first:
        shutil.rmtree(unfinished, ignore_errors=True)
    weights = whole_weights(trainer, of_adapter=work.spec.method != "full")
    if work.is_first:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        model.config.use_cache = True
        _save(work, model, weights, unfinished)
        tokenizer.save_pretrained(unfinished)
        losses = {one["step"]: one["loss"] for one in read_lines(work.place.run.path / HELD_OUT)}
        trained, parameters = _sizes(model)
        numbers = Learned(
            steps=trainer.learned.shares.steps.count,
            held_out=losses,
            trained_parameters=trained,
            parameters=parameters,
            environment=work.place.run.environment() or {},
            first_steps=(first_steps_of(work.place.run) or {}).get("said"),
        )
        curve = curve_of([attempt / METRICS for attempt in work.place.run.attempts() if (attempt / METRICS).exists()])
        (unfinished / "README.md").write_text(card(work.asked, learned.table, numbers, curve))
        write_result(unfinished, output)


def _sizes(model: Any) -> tuple[int, int]:
    """Parameters that were trained, and all: also of weights in 4 bits, or cut into parts."""
    if isinstance(model, PeftModel):
        trained, parameters = model.get_nb_trainable_parameters()
        return int(trained), int(parameters)
    parameters = sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())
    return parameters, parameters


def _save(work: Work, model: Any, weights: Any, folder: Path) -> None:
    """The weights and their configuration; an adapter alone, beside the model's configuration, or merged into it."""
    if work.spec.method == "full":
        model.save_pretrained(folder, state_dict=weights)
        return
    adapter = folder / ADAPTER if work.spec.merge else folder
    model.save_pretrained(adapter, state_dict=weights)
    if work.spec.merge:
        load_whole_from_now_on()
        # Anew, and on the CPU: what is in memory may be cut into parts, or be of 4 bits.
        base = AutoModelForCausalLM.from_pretrained(work.asked.model_path, dtype="auto")
        PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    elif (generation := getattr(model, "generation_config", None)) is not None:
        generation.save_pretrained(folder)
