"""Overseer: looks at each step of the trainer. It writes down what was done, saves in time, and stops where it must.

All processes decide the same, for they exchange what each knows before they decide.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from clusterlm.errors import RunError
from clusterlm.runs.attempt import write_json
from clusterlm.runs.progress import Progress
from clusterlm.units import show_bytes
from clusterlm.worker.outcome import TIME_LIMIT
from clusterlm.worker.training.data.steps import Steps
from clusterlm.worker.training.lines import append_line
from clusterlm.worker.training.state.saving import Saver
from clusterlm.worker.training.watch.gauge import Gauge, Memory, Taken
from clusterlm.worker.training.watch.watchdog import TIMES_LONGEST, Watchdog

MARGIN = 2
"""Times that the longest step and the longest checkpoint are expected again, before a time limit."""
MARGIN_SECONDS = 5
SECONDS_BETWEEN_PROGRESS_FILES = 5
STEPS_OF_TREND = 20
DIVERGED_NATS = 2.0
"""Above the loss of the beginning: worse by so much is no noise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to save, to look at what is held out, and to end. Seconds are Unix time where they are a moment."""

    ends: float | None
    checkpoint_steps: int | None
    checkpoint_seconds: float
    eval_steps: int | None = None


OnStep = Callable[[int, Taken], None]


class Overseer(TrainerCallback):
    def __init__(
        self,
        steps: Steps,
        limits: Limits,
        signalled: Callable[[], str | None],
        on_progress: Callable[[Progress], None],
        first_step: int,
        saver: Saver,
        watchdog: Watchdog,
        gauge: Gauge,
        losses: Sequence[float] = (),
    ) -> None:
        """`losses`: of the steps that are done, by attempts before."""
        self._steps = steps
        self._limits = limits
        self._signalled = signalled
        self._on_progress = on_progress
        self._gauge = gauge
        self._memory = Memory(0, 0)
        self._metrics: Path | None = None
        self._progress_file: Path | None = None
        self._on_step: OnStep = lambda step, taken: None
        self._filed = 0.0
        self._first_step = first_step
        self._saver = saver
        self._watchdog = watchdog
        self._tokens = 0
        self._began = self._step_began = self._saved = time.monotonic()
        self._ended: float | None = None
        self._longest_step = 0.0
        self._longest_look = 0.0
        self._early = list(losses[:STEPS_OF_TREND])
        self._late = deque(losses[STEPS_OF_TREND:], maxlen=STEPS_OF_TREND)
        self.step = first_step
        self.stopped_by: str | None = None
        """The signal's name, or the time limit."""

    def write_to(self, metrics: Path, progress_file: Path, on_step: OnStep) -> None:
        """A line a step, and the progress now and then; of several processes the first one does.

        `on_step` is told what each step took.
        """
        self._metrics = metrics
        self._progress_file = progress_file
        self._on_step = on_step

    # ------------------------------------------------------------------------------------------ what the trainer calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._began = self._step_began = self._saved = time.monotonic()
        self._watchdog.moved()

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._watchdog.moved()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._watchdog.moved()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        now = time.monotonic()
        self._longest_step = max(self._longest_step, now - self._step_began)
        self._saver.look()
        must_stop, is_time_to_save = self._agree(state.global_step, now)
        is_last = state.global_step >= self._steps.count
        if is_last or self._is_time_to_look(state.global_step):
            control.should_evaluate = True
        # After the last one too: to gather and write the result takes long, and may be interrupted.
        control.should_save = must_stop or is_time_to_save or is_last
        control.should_training_stop = must_stop or is_last
        self._watchdog.moved(TIMES_LONGEST * self._saver.longest_seconds if control.should_save else 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        if not logs or "loss" not in logs:
            return
        state.log_history.clear()  # it stands in our own file; each checkpoint would hold all of it
        self.step = state.global_step
        now = time.monotonic()
        taken = self._taken(now)
        self._tokens += taken.tokens
        progress = self.progress(f"loss {logs['loss']:.4g}", _in_words(taken))
        self._write(logs, taken, progress.seconds_left)
        self._on_step(self.step, taken)
        self._step_began = now
        self._on_progress(progress)
        if self._progress_file is not None and now - self._filed >= SECONDS_BETWEEN_PROGRESS_FILES:
            self._filed = now
            write_json(self._progress_file, asdict(progress))
        self._refuse_to_diverge(float(logs["loss"]), float(logs.get("grad_norm") or 0.0))

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._ended = time.monotonic()
        if self._progress_file is not None:
            write_json(self._progress_file, asdict(self.progress()))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **others: Any) -> None:
        self._longest_look = max(self._longest_look, metrics["eval_runtime"])
        self._step_began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._saved = self._step_began = time.monotonic()
        self._watchdog.moved()

    # ----------------------------------------------------------------------------------------------------- its account

    def progress(self, note: str = "", taken: str = "") -> Progress:
        return Progress(
            requests=self._steps.count,
            done=self.step,
            failed=0,
            new_results=self.step - self._first_step,
            new_tokens=self._tokens,
            seconds=(self._ended or time.monotonic()) - self._began,
            unit="steps",
            note=note,
            taken=taken,
        )

    def _taken(self, now: float) -> Taken:
        """By the last step."""
        lengths = [int(self._steps.lengths[number]) for number in self._steps.sequences(self.step - 1)]
        seconds = now - self._step_began
        use, hours = self._gauge.use(lengths, seconds), self._gauge.gpu_hours(now - self._began)
        return Taken(seconds, sum(lengths), self._memory, use, hours)

    def _write(self, logs: dict[str, Any], taken: Taken, seconds_left: float | None) -> None:
        if self._metrics is None:
            return
        speed, mfu, hours = taken.tokens_per_second, taken.mfu, taken.gpu_hours
        line = {
            "step": self.step,
            "epoch": round(self._steps.epoch_of(self.step), 4),
            "loss": logs["loss"],
            "gradient_norm": logs.get("grad_norm"),
            "learning_rate": logs.get("learning_rate"),
            "tokens": taken.tokens,
            "seconds": round(taken.seconds, 4),
            "tokens_per_second": None if speed is None else round(speed, 1),
            "memory_bytes": taken.memory.bytes,
            "reserved_bytes": taken.memory.reserved_bytes or None,
            "mfu": None if mfu is None else round(mfu, 4),
            "gpu_hours": None if hours is None else round(hours, 6),
            "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        }
        append_line(self._metrics, line)

    # ------------------------------------------------------------------------------------------------------- decisions

    def _agree(self, step: int, now: float) -> tuple[bool, bool]:
        """Whether to stop, and whether to save: what one process must, all do; and what memory they take."""
        name = self._signalled()
        number = signal.Signals[name].value if name else 0
        memory = self._gauge.memory()
        own = [number, self._is_time_to_stop(), self._is_time_to_save(step, now), memory.bytes, memory.reserved_bytes]
        mine = torch.tensor(own, dtype=torch.int64)
        if dist.is_initialized():
            dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        number, out_of_time, to_save, *of_memory = mine.tolist()
        self._memory = Memory(*of_memory)
        if number or out_of_time:
            self.stopped_by = signal.Signals(number).name if number else TIME_LIMIT
        return self.stopped_by is not None, bool(to_save)

    def _is_time_to_stop(self) -> bool:
        if self._limits.ends is None:
            return False
        longest = self._longest_step + self._longest_look + self._saver.longest_seconds
        needed = MARGIN * longest + MARGIN_SECONDS
        return time.time() + needed >= self._limits.ends

    def _is_time_to_look(self, step: int) -> bool:
        return self._limits.eval_steps is not None and step % self._limits.eval_steps == 0

    def _is_time_to_save(self, step: int, now: float) -> bool:
        if self._limits.checkpoint_steps is not None and step % self._limits.checkpoint_steps == 0:
            return True
        return now - self._saved >= self._limits.checkpoint_seconds

    def _refuse_to_diverge(self, loss: float, gradient_norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {gradient_norm}"
            raise self._spoilt(what)
        if len(self._early) < STEPS_OF_TREND:
            self._early.append(loss)
            return
        self._late.append(loss)
        early, late = sum(self._early) / len(self._early), sum(self._late) / len(self._late)
        if len(self._late) == STEPS_OF_TREND and late > early + DIVERGED_NATS:
            raise self._spoilt(f"the loss grows: {early:.3g} nats in the beginning, {late:.3g} now")

    def _spoilt(self, what: str) -> RunError:
        hint = f"lower --learning-rate (with --restart), or look at the texts; {self._saver.what_is_safe()}"
        return RunError(f"step {self.step:,}: {what}", hint=hint)


def _in_words(taken: Taken) -> str:
    parts = [show_bytes(taken.memory.bytes)]
    parts += [f"MFU {taken.mfu:.0%}"] if taken.mfu is not None else []
    parts += [f"{taken.gpu_hours:.2f} GPU-hours"] if taken.gpu_hours is not None else []
    return ", ".join(parts)
