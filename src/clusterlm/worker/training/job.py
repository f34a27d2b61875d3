"""A training from its run folder: what is missing is learned, what is saved is kept."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from peft import LoraConfig
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from clusterlm.runs.at_once import rows_at_once
from clusterlm.runs.first_steps import FILE
from clusterlm.runs.progress import Progress
from clusterlm.worker.environment import describe_model, describe_process
from clusterlm.worker.loading import load_tokenizer, quiet
from clusterlm.worker.memory import is_out_of_memory
from clusterlm.worker.outcome import Interrupted, failed
from clusterlm.worker.place import Place
from clusterlm.worker.training.arguments import arguments_of
from clusterlm.worker.training.data.lessons import encode, lessons, pad_token, usual_rows
from clusterlm.worker.training.data.packing import decide_packing
from clusterlm.worker.training.data.rows import Collator
from clusterlm.worker.training.data.tokens import Tokens
from clusterlm.worker.training.finish import write_model
from clusterlm.worker.training.handover import hand_over
from clusterlm.worker.training.lines import append_line, read_lines
from clusterlm.worker.training.loading import Loading
from clusterlm.worker.training.model import adapter_config, attention_of, load_for_training, row_tokens, skeleton_of
from clusterlm.worker.training.own_check import check_own_strategy
from clusterlm.worker.training.precision import Precision, precision_of
from clusterlm.worker.training.result import curve_of, perplexity, unfinished_of
from clusterlm.worker.training.start import same_for_all
from clusterlm.worker.training.state import checkpoints
from clusterlm.worker.training.state.carrying import carry, must_be_carried
from clusterlm.worker.training.state.checkpoints import Checkpoint
from clusterlm.worker.training.state.room import room_of
from clusterlm.worker.training.state.saving import SAVED, Saver
from clusterlm.worker.training.strategies import (
    Name,
    check_cut,
    is_strategy_open,
    prepare_to_cut,
    spread_of,
    strategy_of,
)
from clusterlm.worker.training.trainer import Carried, Trainer
from clusterlm.worker.training.watch.forecast import Comparison, Forecast, compared_step, fastest_that_fits
from clusterlm.worker.training.watch.gauge import Gauge, gauge_of
from clusterlm.worker.training.watch.overseer import Limits, Overseer
from clusterlm.worker.training.watch.watchdog import Watchdog
from clusterlm.worker.training.work import HELD_OUT, METRICS, Say, ShouldStop, Work

FAMILY = ("torch", "transformers", "tokenizers", "accelerate", "peft", "trl", "datasets")
PACKAGES = (*FAMILY, "deepspeed", "bitsandbytes", "safetensors", "numpy")


def run_training(
    place: Place,
    on_progress: Callable[[Progress], None],
    should_stop: ShouldStop,
    on_work: Callable[[], None] = lambda: None,
    say: Say = lambda text: None,
) -> Progress:
    """Work until the model is trained and written. Interrupted when asked to stop before, with a checkpoint saved.

    `on_work` is called before the first step: from then on there is something to lose. `say`: lines about the data.
    """
    work = Work(place, place.asked(), should_stop, on_progress, say if place.ranks.rank == 0 else lambda _: None)
    # What the libraries warn of is for their developers: names that they will change.
    with place.locked() if work.is_first else contextlib.nullcontext(), warnings.catch_warnings(action="ignore"):
        return _run(work, on_work)


def _run(work: Work, on_work: Callable[[], None]) -> Progress:
    """Where the memory is too small for a micro-batch, again with half of it; the sequences of a step stay the same."""
    ready = _prepare(work)
    rows = ready.rows
    while True:
        try:
            with Loading() as loading:
                return _train(work, ready, rows, on_work, loading)
        except Exception as problem:
            # Of several processes the others wait for the one that failed: they are started again from outside.
            if not is_out_of_memory(problem) or rows == 1 or work.place.ranks.ranks > 1:
                raise
        gc.collect()
        work.say(f"out of memory with {rows} sequences at once: again with {rows // 2}")
        rows //= 2


@dataclass(frozen=True)
class _Ready:
    """All that is known before the model is loaded."""

    strategy: Name
    adapter: LoraConfig | None
    precision: Precision
    attention: str
    gauge: Gauge
    is_packed: bool
    row_tokens: int
    rows: int
    """At once on each device, while the memory is large enough."""
    tokenizer: Any
    learned: Tokens
    held_out: Tokens | None


def _prepare(work: Work) -> _Ready:
    """What costs little is checked first, the data is encoded last."""
    path, spec = work.asked.model_path, work.spec
    quiet()
    strategy = strategy_of(spec, work.place.ranks.ranks)
    skeleton = skeleton_of(path, spec)
    check_own_strategy(spec, skeleton)
    precision = precision_of(spec)
    limit = row_tokens(skeleton.config, spec)
    adapter = adapter_config(skeleton, spec)
    attention = attention_of(skeleton)
    gauge = gauge_of(spec, path, precision, work.place.ranks.ranks)
    rows = _rows(work, limit)
    if gauge.on_gpu and is_strategy_open(spec, work.place.ranks.ranks):
        strategy, reason = fastest_that_fits(gauge, spec, work.place.ranks, attention, (rows, limit))
        work.say(f"strategy: {strategy}, {reason}")
    is_packed, note = decide_packing(path, spec, attention)
    if note:
        work.say(f"note: {note}")
    tokenizer = load_tokenizer(path)
    learned, held_out = encode(work, tokenizer, limit)
    return _Ready(strategy, adapter, precision, attention, gauge, is_packed, limit, rows, tokenizer, learned, held_out)


def _rows(work: Work, limit: int) -> int:
    """As many as are asked for, or half of what was too much before."""
    spec, processes = work.spec, work.place.ranks.ranks
    wanted = spec.micro_batch or usual_rows(limit)
    rows = same_for_all(lambda: rows_at_once(work.place.run, wanted, processes))
    if rows < wanted:
        work.say(f"{rows} sequences at once: for {wanted} the memory was too small before")
    return rows


def _train(work: Work, ready: _Ready, rows: int, on_work: Callable[[], None], loading: Loading) -> Progress:
    asked, spec = work.asked, work.spec
    checkpoint = _newest(work)
    first_step = checkpoint.step if checkpoint else 0
    strategy = ready.strategy
    collator = Collator(pad_token(ready.tokenizer), is_packed=ready.is_packed)
    lesson, held_out = lessons(work, ready.learned, ready.held_out, ready.row_tokens, rows, collator)
    steps = lesson.shares.steps
    saver = Saver(work.place.run.checkpoints, spec.keep_checkpoints, is_first=work.is_first)
    watchdog = Watchdog(lambda problem: _give_up(work, overseer.progress(), problem))
    forecast = Forecast(work.place, spec, ready.gauge, lesson.shares, strategy, ready.attention)
    overseer = Overseer(
        steps,
        _limits(work),
        work.should_stop,
        work.on_progress,
        first_step,
        saver,
        watchdog,
        ready.gauge,
        _losses(work, first_step),
    )
    prepare_to_cut(strategy, spec)
    spread = spread_of(strategy, spec, ready.precision)
    # Before the model: a strategy that cuts the weights lets each process load no more than its part.
    arguments = arguments_of(spec, lesson.shares, ready.precision, work.place.run.checkpoints, spread)
    trainer = Trainer(
        model=load_for_training(asked.model_path, spec, ready.precision),
        args=arguments,
        processing_class=ready.tokenizer,
        peft_config=ready.adapter,
        learned=lesson,
        held_out=held_out,
        tell=partial(_tell_held_out, work),
        say=work.say,
        saver=saver,
        first_step=first_step,
        carried=_carried(work, checkpoint, strategy),
    )
    trainer.pop_callback(PrinterCallback)
    needed = room_of(spec, trainer.model)
    saver.estimate(needed.checkpoint_bytes)
    saver.check_room(needed.checkpoint_bytes, needed.result_bytes)

    def begin() -> None:
        _begin(work, trainer, forecast, overseer, saver, first_step, loading)
        on_work()

    trainer.add_callback(_Beginning(begin))
    trainer.add_callback(overseer)
    with watchdog, saver:
        trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
    if overseer.stopped_by is not None:
        raise Interrupted(overseer.stopped_by)
    with saver.told_of("the model cannot be written", asked.output_path, unfinished_of(asked.output_path)):
        write_model(work, trainer, ready.tokenizer, ready.learned)
    progress = replace(overseer.progress(), done=steps.count)
    if work.is_first:
        work.place.run.write_finished(progress)
    return progress


# --------------------------------------------------------------------------------------------------- where it goes on


def _newest(work: Work) -> Checkpoint | None:
    checkpoint, said = same_for_all(lambda: checkpoints.newest(work.place.run.checkpoints))
    for line in said:
        work.say(f"warning: {line}")
    if checkpoint:
        work.say(f"continuing behind step {checkpoint.step:,}")
    return checkpoint


def _losses(work: Work, steps: int) -> list[float]:
    """Of so many steps, as the attempts before wrote them down."""
    if not steps:
        return []
    curve = same_for_all(lambda: curve_of([attempt / METRICS for attempt in work.place.run.attempts()]))
    return [one["loss"] for one in curve if one["step"] <= steps]


def _carried(work: Work, checkpoint: Checkpoint | None, strategy: Name) -> Carried | None:
    """None where the libraries load the checkpoint themselves."""
    if checkpoint is None or not must_be_carried(checkpoint, strategy, work.place.ranks.ranks):
        return None
    work.say(f"the checkpoint was written by {checkpoint.processes}, {strategy} goes on with {work.place.ranks.ranks}")
    return partial(carry, checkpoint)


def _limits(work: Work) -> Limits:
    spec = work.spec
    return Limits(work.place.ends, spec.checkpoint_steps, 60 * spec.checkpoint_minutes, spec.eval_steps)


def _give_up(work: Work, progress: Progress, problem: str) -> NoReturn:
    """From the watchdog's thread, for the main one cannot."""
    hung = failed(TimeoutError(problem), progress)
    if (file := work.place.outcome_file()) is not None:
        hung.write(file)
    os.write(2, f"error: {problem}; the same command continues behind the last checkpoint\n".encode())
    os._exit(hung.exit_status)


class _Beginning(TrainerCallback):
    """When the model is cut and placed, and the first step is next."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._begin()


def _begin(
    work: Work,
    trainer: Trainer,
    forecast: Forecast,
    overseer: Overseer,
    saver: Saver,
    first_step: int,
    loading: Loading,
) -> None:
    """Writes down with what it works, and how well the model does before it learns."""
    strategy = forecast.strategy
    processes = trainer.learned.shares.processes
    check_cut(strategy, trainer.model_wrapped, processes)
    peaks = loading.peaks()
    if work.is_first:
        shares = trainer.learned.shares
        spread = {
            "strategy": strategy,
            "processes": processes,
            "micro_batch": shares.rows,
            "micro_batches": shares.micro_batches,
            "sequence_length": shares.row_tokens,
            "packed": shares.is_packed,
            "attention": forecast.attention,
            "peak_host_bytes_of_loading": peaks,
        }
        device = trainer.args.device
        file = work.place.begin(
            {**describe_process(device, PACKAGES), "model": describe_model(work.asked), "training": spread}
        )
        compared = compared_step(first_step, shares.steps.count)
        beside = Comparison(compared, forecast.of(first_step), forecast.gauge.on_gpu, file.with_name(FILE), work.say)
        overseer.write_to(file.with_name(METRICS), file, beside.look)
        if processes > 1:
            hand_over(file.parent, trainer, work.place.run.path)
        saver.write_to(file.with_name(SAVED))
    if first_step == 0:
        trainer.evaluate()
    forecast.gauge.begin()


def _tell_held_out(work: Work, step: int, loss: float) -> None:
    when = "before" if step == 0 else f"behind step {step:,}"
    work.say(f"held-out loss {when}: {loss:.4f} nats per token (perplexity {perplexity(loss):,.2f})")
    file = work.place.run.path / HELD_OUT
    if work.is_first and all(one["step"] != step for one in read_lines(file)):  # an attempt before may have told it
        append_line(file, {"step": step, "loss": loss})
