"""Forecast: what the planner says of the first steps of a training on its device, and what they take in fact."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterlm.errors import ClusterlmError
from clusterlm.planning.case import Case
from clusterlm.planning.room import fits
from clusterlm.planning.settle import settle
from clusterlm.planning.speed import pace, usual_links
from clusterlm.planning.wishes import Wishes
from clusterlm.runs.attempt import write_json
from clusterlm.runs.first_steps import plan_of_job
from clusterlm.spec import TrainSpec
from clusterlm.strategy import UNCUT_BY_FSDP
from clusterlm.worker.place import Place
from clusterlm.worker.ranks import Ranks
from clusterlm.worker.training.data.steps import Shares
from clusterlm.worker.training.strategies import Name
from clusterlm.worker.training.watch.first_steps import FirstSteps, Planned
from clusterlm.worker.training.watch.gauge import Gauge, Taken
from clusterlm.worker.training.work import Say

KERNELS = {"sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash"}
"""Of attention: what transformers calls them, and the planner."""
COMPARED = 3
"""The step, counted from where an attempt begins: the first ones are slow, for kernels are chosen and memory is got."""


FEWEST = 2
"""Steps: of an attempt that has but one nothing is planned."""


@dataclass(frozen=True)
class Forecast:
    place: Place
    spec: TrainSpec
    gauge: Gauge
    shares: Shares
    strategy: Name
    attention: str

    def of(self, first_step: int) -> Planned | None:
        """Of the step that is compared, where `first_step` are done; None where the planner has no figures.

        In a job it is the plan that the job was submitted with, as far as it is done that way.
        """
        steps = range(first_step, compared_step(first_step, self.shares.steps.count))
        if self.gauge.card is None or self.gauge.shape is None or len(steps) < FEWEST:
            return None
        if self.place.attempt is not None and (plan := plan_of_job(self.place.run, self._way())):
            return self._submitted(plan, steps[-1])
        try:
            return self._made(steps)
        except ClusterlmError:  # a way that the planner does not count
            return None

    def _way(self) -> dict[str, object]:
        assert self.gauge.card is not None
        return {
            "gpu": self.gauge.card.key,
            "gpus": self.shares.processes,
            "strategy": self.strategy,
            "batch": self.shares.rows,
            "gradient_checkpointing": bool(self.spec.gradient_checkpointing),
        }

    def _submitted(self, plan: dict[str, Any], step: int) -> Planned:
        """Of as many tokens as the step has."""
        tokens = sum(int(self.shares.steps.lengths[number]) for number in self.shares.steps.sequences(step))
        planned = plan["best"]["step"]
        seconds, memory = tokens / planned["tokens_per_second"], plan["memory"]["one_gpu"]["allocated"]
        return Planned(seconds, planned["spread"], memory, f"the job's plan: {planned['basis']}")

    def _made(self, steps: range) -> Planned:
        """The time of the last of them, and the memory of the largest micro-batch of all."""
        assert self.gauge.card is not None
        batches = self._micro_batches(steps[-1])
        rows = max(1, round(sum(rows for rows, _ in batches) / len(batches)))
        width = max(1, round(sum(rows * width for rows, width in batches) / len(batches) / rows))
        speed = pace(self._case(rows, width, len(batches)), usual_links(self.gauge.card))
        largest = max((batch for step in steps for batch in self._micro_batches(step)), key=lambda one: one[0] * one[1])
        memory = self._case(*largest, len(batches)).on_gpu.allocated
        return Planned(speed.step_seconds, speed.spread, memory, speed.basis)

    def _micro_batches(self, step: int) -> list[tuple[int, int]]:
        """Of the first process: rows, and the tokens that each is filled up to."""
        lengths = self.shares.steps.lengths
        found = self.shares.of_step(step)[:: self.shares.processes]
        return [(len(rows), max(int(lengths[list(row)].sum()) for row in rows)) for rows in found if rows]

    def _case(self, rows: int, width: int, micro_batches: int) -> Case:
        gauge = self.gauge
        assert gauge.card is not None and gauge.shape is not None
        wishes = wishes_of(self.spec, self.place.ranks, self.strategy, self.attention, (rows, width), micro_batches)
        return settle(gauge.shape, gauge.card, wishes)


def wishes_of(
    spec: TrainSpec, ranks: Ranks, strategy: Name, attention: str, largest: tuple[int, int], micro_batches: int
) -> Wishes:
    """In the planner's words. `largest`: rows at once on each device, and the tokens of a row."""
    rows, width = largest
    adapts = spec.method != "full"
    return Wishes(
        task="train",
        method=spec.method,
        micro_batch=rows,
        batch=rows * ranks.ranks * micro_batches,
        sequence_length=width,
        dtype=None if spec.dtype == "auto" else spec.dtype,
        attention=KERNELS.get(attention),
        strategy=strategy,
        offload=None if spec.offload == "none" else spec.offload,
        gpus=ranks.ranks,
        gpus_per_node=ranks.local_ranks,
        gradient_checkpointing=bool(spec.gradient_checkpointing),
        optimizer=spec.optimizer,
        lora_rank=spec.lora_rank if adapts else None,
        lora_targets=spec.lora_targets if adapts else None,
    )


def fastest_that_fits(
    gauge: Gauge, spec: TrainSpec, ranks: Ranks, attention: str, largest: tuple[int, int]
) -> tuple[Name, str]:
    """Of what torch alone can do with several GPUs, and why. Where neither fits fewer rows at once may do."""
    if gauge.card is None or gauge.shape is None:
        return "ddp", f"for the planner has no figures of {'the GPUs' if gauge.card is None else 'the model'}"
    if spec.optimizer in UNCUT_BY_FSDP:
        return "ddp", f"for the states of {spec.optimizer} cannot be cut by FSDP"
    rows, width = largest
    shared = max(1, spec.global_batch_size // ranks.ranks)
    seconds: dict[Name, float] = {}
    names: tuple[Name, ...] = ("ddp", "fsdp")
    for name in names:
        wishes = wishes_of(spec, ranks, name, attention, (min(rows, shared), width), 1)
        with suppress(ClusterlmError):  # a way that the planner does not count
            case = settle(gauge.shape, gauge.card, wishes)
            if fits(case):
                seconds[name] = pace(case, usual_links(gauge.card)).step_seconds
    where = f"{ranks.ranks} x {gauge.card.name}"
    if not seconds:
        return "fsdp", f"which needs least: by the plan neither it nor ddp fits {where}"
    return min(seconds, key=seconds.__getitem__), f"the faster of ddp and fsdp that fits {where}, by the plan"


def compared_step(first_step: int, count: int) -> int:
    """Counted from 1."""
    return min(first_step + COMPARED, count)


@dataclass(frozen=True)
class Comparison:
    """Told once, and written down."""

    step: int
    planned: Planned | None
    on_gpu: bool
    file: Path
    say: Say

    def look(self, step: int, taken: Taken) -> None:
        if step != self.step or not taken.seconds:
            return
        found = FirstSteps(step, taken.seconds, taken.tokens, taken.memory.bytes, self.on_gpu, self.planned)
        write_json(self.file, found.values())
        self.say(found.line())
