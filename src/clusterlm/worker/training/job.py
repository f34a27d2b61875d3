"""A training from its run folder: what is missing is learned, what is saved is kept."""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy
import torch.distributed as dist
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.trainer_callback import PrinterCallback

from clusterlm.errors import InputError, UsageError
from clusterlm.records.examples import Example
from clusterlm.runs.asked import Asked
from clusterlm.runs.progress import Progress
from clusterlm.spec import TrainSpec
from clusterlm.worker.environment import describe_model, describe_process
from clusterlm.worker.loading import load_tokenizer, quiet, read_config
from clusterlm.worker.outcome import Interrupted
from clusterlm.worker.place import Place
from clusterlm.worker.training import checkpoints
from clusterlm.worker.training.arguments import arguments_of
from clusterlm.worker.training.checkpoints import Checkpoint
from clusterlm.worker.training.encoding import Encoder
from clusterlm.worker.training.model import adapter_config, attention_of, load_for_training, row_tokens
from clusterlm.worker.training.overseer import Limits, Overseer
from clusterlm.worker.training.packing import decide_packing
from clusterlm.worker.training.precision import precision_of
from clusterlm.worker.training.result import Learned, card, curve_of, write_result
from clusterlm.worker.training.rows import Collator
from clusterlm.worker.training.steps import Shares, Steps
from clusterlm.worker.training.strategies import spread_of, strategy_of
from clusterlm.worker.training.tokens import Tokens, read_tokens, write_tokens
from clusterlm.worker.training.trainer import Lesson, Trainer

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "trl", "datasets", "deepspeed", "numpy")
ADAPTER = "adapter"
"""Folder beside a merged model."""
METRICS = "steps.jsonl"
HELD_OUT = "held_out.jsonl"
MICRO_BATCH = 4
"""Sequences of full length at once where nothing else is asked for."""

ShouldStop = Callable[[], str | None]
Say = Callable[[str], None]


@dataclass
class Work:
    """One process's way through a training."""

    place: Place
    asked: Asked[TrainSpec]
    should_stop: ShouldStop
    on_progress: Callable[[Progress], None]
    say: Say

    @property
    def spec(self) -> TrainSpec:
        return self.asked.spec

    @property
    def is_first(self) -> bool:
        return self.place.ranks.rank == 0


def run_training(
    place: Place,
    on_progress: Callable[[Progress], None],
    should_stop: ShouldStop,
    on_work: Callable[[], None] = lambda: None,
    say: Say = lambda text: None,
) -> Progress:
    """Work until the model is trained and written. Interrupted when asked to stop before, with a checkpoint saved.

    `on_work` is called when the model is loaded: from then on there is something to lose. `say`: lines about the data.
    """
    work = Work(
        place, place.run.read_asked(), should_stop, on_progress, say if place.ranks.rank == 0 else lambda _: None
    )
    # What the libraries warn of is for their developers: names that they will change.
    with place.locked() if work.is_first else contextlib.nullcontext(), warnings.catch_warnings(action="ignore"):
        return _run(work, on_work)


def _run(work: Work, on_work: Callable[[], None]) -> Progress:
    asked, spec = work.asked, work.spec
    quiet()
    config = read_config(asked.model_path)
    limit = row_tokens(config, spec)
    adapter = adapter_config(asked.model_path, spec)
    precision = precision_of(spec)
    tokenizer = load_tokenizer(asked.model_path)
    learned, held_out = _tokens(work, tokenizer, limit)
    checkpoint = _newest(work)
    first_step = checkpoint.step if checkpoint else 0

    strategy = strategy_of(spec, work.place.ranks.ranks)
    spread = spread_of(strategy, spec, precision)
    model = load_for_training(asked.model_path, spec, precision)
    is_packed, note = decide_packing(asked.model_path, spec, attention_of(model))
    if note:
        work.say(f"note: {note}")
    collator = Collator(_pad_token(tokenizer), is_packed=is_packed)
    lesson, held_out_lesson = _lessons(work, learned, held_out, limit, collator)
    steps = lesson.shares.steps
    overseer = _overseer(work, steps, first_step)
    trainer = Trainer(
        model=model,
        args=arguments_of(spec, lesson.shares, precision, work.place.run.checkpoints, spread),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[overseer],
        learned=lesson,
        held_out=held_out_lesson,
        folder=work.place.run.checkpoints,
        keep=spec.keep_checkpoints,
        first_step=first_step,
    )
    trainer.pop_callback(PrinterCallback)
    on_work()
    if reason := work.should_stop():
        raise Interrupted(reason)
    _describe(work, trainer, first_step, overseer)
    trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    if overseer.stopped_by is not None and overseer.step < steps.count:
        raise Interrupted(overseer.stopped_by)
    _measure(work, trainer, overseer.step)
    _write(work, trainer, tokenizer, learned)
    progress = replace(overseer.progress(), done=steps.count)
    if work.is_first:
        work.place.run.write_finished(progress)
    return progress


# ---------------------------------------------------------------------------------------------------------------- data


def _tokens(work: Work, tokenizer: Any, limit: int) -> tuple[Tokens, Tokens | None]:
    """Encoded by the first process, while the others wait; cached by all that they follow from."""
    asked, spec = work.asked, work.spec
    folder = work.place.run.data
    has_held_out = spec.eval is not None or spec.eval_fraction > 0
    if work.is_first:
        key = {"content": asked.identity, "sequence_length": limit, "tokenizer": str(type(tokenizer))}
        too_long: Any = spec.too_long
        if too_long == "auto":
            too_long = "split" if asked.examples().form == "text" else "truncate"
        encoder = Encoder(tokenizer, asked.model_name)
        is_held_out = _held_out_rows(asked.requests, spec)
        write_tokens(folder / "learned", key, encoder.encode(_select(asked, ~is_held_out)), limit, too_long)
        if has_held_out:
            examples = asked.held_out()
            chosen = examples if examples is not None else _select(asked, is_held_out)
            write_tokens(folder / "held_out", key, encoder.encode(chosen), limit, too_long)
    if dist.is_initialized():
        dist.barrier()
    learned = read_tokens(folder / "learned")
    for line in learned.table.lines():
        work.say(line)
    return learned, read_tokens(folder / "held_out") if has_held_out else None


def _held_out_rows(examples: int, spec: TrainSpec) -> numpy.ndarray:
    """Which of the examples are held out, drawn by the seed."""
    chosen = numpy.zeros(examples, dtype=bool)
    if spec.eval_fraction:
        count = max(1, round(examples * spec.eval_fraction))
        if count >= examples:
            raise InputError(f"of {examples:,} examples none would be left to learn", where="--eval-fraction")
        chosen[numpy.random.default_rng([spec.seed, 1]).permutation(examples)[:count]] = True
    return chosen


def _select(asked: Asked[TrainSpec], chosen: numpy.ndarray) -> Iterator[Example]:
    return compress(asked.examples(), chosen)


def _lessons(
    work: Work, learned: Tokens, held_out: Tokens | None, limit: int, collator: Collator
) -> tuple[Lesson, Lesson | None]:
    spec, processes = work.spec, work.place.ranks.ranks
    rows = spec.micro_batch or MICRO_BATCH
    if processes > spec.global_batch_size:
        problem = f"{processes} processes share the {spec.global_batch_size} sequences of a step: some would be idle"
        raise UsageError(problem, where="--global-batch-size", hint=f"at least {processes}, or fewer GPUs")
    if len(learned) < processes:
        problem = f"there are {len(learned):,} sequences to learn from, and {processes} processes"
        raise UsageError(problem, where="--gpus", hint=f"at most {len(learned)}")

    def lesson(tokens: Tokens, steps: Steps) -> Lesson:
        return Lesson(tokens, Shares(steps, limit, rows, processes, collator.is_packed), collator)

    of_training = Steps(learned.lengths, spec.global_batch_size, spec.epochs, spec.max_steps, spec.seed)
    if held_out is None:
        return lesson(learned, of_training), None
    return lesson(learned, of_training), lesson(held_out, Steps(held_out.lengths, len(held_out), 1, None, 0))


def _pad_token(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


# --------------------------------------------------------------------------------------------------- where it goes on


def _newest(work: Work) -> Checkpoint | None:
    """The first process looks, and all take the same."""
    found: list[Any] = [None]
    if work.is_first:
        checkpoint, said = checkpoints.newest(work.place.run.checkpoints)
        for line in said:
            work.say(f"warning: {line}")
        if checkpoint:
            work.say(f"continuing behind step {checkpoint.step:,}")
        found = [checkpoint]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0] if found[0] is None or isinstance(found[0], Checkpoint) else None


def _overseer(work: Work, steps: Steps, first_step: int) -> Overseer:
    limits = Limits(work.place.ends, work.spec.checkpoint_steps, 60 * work.spec.checkpoint_minutes)
    return Overseer(steps, limits, work.should_stop, work.on_progress, first_step)


def _describe(work: Work, trainer: Trainer, first_step: int, overseer: Overseer) -> None:
    """Writes down with what it works, and how well the model does before it learns."""
    if work.is_first:
        shares = trainer.learned.shares
        spread = {
            "processes": shares.processes,
            "micro_batch": shares.rows,
            "micro_batches": shares.micro_batches,
            "sequence_length": shares.row_tokens,
            "packed": shares.is_packed,
            "attention": attention_of(trainer.model),
        }
        device = trainer.args.device
        file = work.place.begin(
            {**describe_process(device, PACKAGES), "model": describe_model(work.asked), "training": spread}
        )
        overseer.write_to(file.with_name(METRICS), file)
    if first_step == 0:
        _measure(work, trainer, 0)


def _measure(work: Work, trainer: Trainer, step: int) -> None:
    """The loss on what is held out, written down."""
    loss = trainer.held_out_loss()
    if loss is None:
        return
    work.say(f"held-out loss {'before' if step == 0 else f'behind step {step:,}'}: {loss:.4f} nats per token")
    if work.is_first:
        with open(work.place.run.path / HELD_OUT, "a") as file:
            file.write(json.dumps({"step": step, "loss": loss}) + "\n")


# --------------------------------------------------------------------------------------------------------------- result


def _write(work: Work, trainer: Trainer, tokenizer: Any, learned: Tokens) -> None:
    """The model, the tokenizer and the card; whole, then under its name."""
    output = work.asked.output_path
    unfinished = output.with_name(f".{output.name}.unfinished")
    if work.is_first:
        shutil.rmtree(unfinished, ignore_errors=True)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if work.is_first:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        model.config.use_cache = True
        _save(work, model, weights, unfinished)
        tokenizer.save_pretrained(unfinished)
        losses = _held_out_losses(work.place.run.path / HELD_OUT)
        numbers = Learned(
            steps=trainer.learned.shares.steps.count,
            held_out_before=losses.get(0),
            held_out_after=losses[max(losses)] if len(losses) > 1 else None,
            trained_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
            parameters=sum(weight.numel() for weight in model.parameters()),
        )
        curve = curve_of([attempt / METRICS for attempt in work.place.run.attempts() if (attempt / METRICS).exists()])
        (unfinished / "README.md").write_text(card(work.asked, learned.table, numbers, curve))
        write_result(unfinished, output)


def _save(work: Work, model: Any, weights: Any, folder: Path) -> None:
    """The weights and their configuration; an adapter alone, beside the model's configuration, or merged into it."""
    if work.spec.method == "full":
        model.save_pretrained(folder, state_dict=weights)
        return
    adapter = folder / ADAPTER if work.spec.merge else folder
    model.save_pretrained(adapter, state_dict=weights)
    if work.spec.merge:
        # Anew, and on the CPU: what is in memory may be cut into parts, or be of 4 bits.
        base = AutoModelForCausalLM.from_pretrained(work.asked.model_path, dtype="auto")
        PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    elif (generation := getattr(model, "generation_config", None)) is not None:
        generation.save_pretrained(folder)


def _held_out_losses(file: Path) -> dict[int, float]:
    if not file.exists():
        return {}
    return {one["step"]: one["loss"] for one in map(json.loads, file.read_text().splitlines())}
