"""What is learned and what is held out, as tokens, and how a training's processes share them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy
import torch
import torch.distributed as dist

from clusterlm.errors import InputError, UsageError
from clusterlm.records.examples import Example
from clusterlm.runs.asked import Asked
from clusterlm.spec import TrainSpec
from clusterlm.worker.training.data.encoding import Encoder
from clusterlm.worker.training.data.rows import Collator
from clusterlm.worker.training.data.steps import Shares, Steps
from clusterlm.worker.training.data.tokens import Tokens, read_tokens, write_tokens
from clusterlm.worker.training.work import Work

MICRO_BATCH = 4
"""Sequences of full length at once on an accelerator, where nothing else is asked for."""
CPU_MICRO_BATCH_TOKENS = 1024
"""On a CPU more at once were slower, and took memory: see docs/concepts/training-speed.md."""


@dataclass(frozen=True)
class Lesson:
    """What is learned, and how the processes share it."""

    tokens: Tokens
    shares: Shares
    collator: Collator


def encode(work: Work, tokenizer: Any, limit: int) -> tuple[Tokens, Tokens | None]:
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


def usual_rows(limit: int) -> int:
    """Sequences of `limit` tokens at once on one device, where nothing else is asked for."""
    return MICRO_BATCH if torch.accelerator.is_available() else max(1, CPU_MICRO_BATCH_TOKENS // limit)


def lessons(
    work: Work, learned: Tokens, held_out: Tokens | None, limit: int, rows: int, collator: Collator
) -> tuple[Lesson, Lesson | None]:
    spec, processes = work.spec, work.place.ranks.ranks
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


def pad_token(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
