"""Changes: what would make a case fit, found by trying; those that leave the result alone first, more GPUs last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from clusterlm.errors import ClusterlmError
from clusterlm.planning.case import Case
from clusterlm.planning.refusals import QUANTISED_WHILE_LOADING
from clusterlm.planning.room import available_bytes, fits
from clusterlm.planning.settle import settle
from clusterlm.planning.wishes import Wishes, said
from clusterlm.strategy import SHARDS_PARAMETERS, UNCUT_BY_FSDP

MOST_CHANGES = 5
MOST_GPUS = 64
LARGEST_BATCH_TRIED = 4096
SHORTEST_SEQUENCE = 256


@dataclass(frozen=True)
class Change:
    """`wishes` are what else is to be asked for, and `case` is what that gives."""

    words: str
    wishes: dict[str, Any]
    case: Case

    @property
    def needed(self) -> int:
        return self.case.on_gpu.needed

    @property
    def margin(self) -> int:
        return available_bytes(self.case) - self.needed

    @property
    def flags(self) -> str:
        """What to add to the command that was given."""
        return flags_of(self.wishes)


@dataclass(frozen=True)
class Trial:
    """Other wishes, not yet tried."""

    words: str
    wishes: dict[str, Any]


def flags_of(wishes: dict[str, Any]) -> str:
    return " ".join(said(name, value) for name, value in wishes.items())


def helping_changes(case: Case, wishes: Wishes) -> tuple[Change, ...]:
    """Each alone; where hardly any does, together with what needs no further GPU."""
    found = list(islice(_that_fit(case, wishes, _trials(case, wishes)), MOST_CHANGES))
    smallest = _smallest(case)
    small = _settled(case, wishes, smallest)
    if len(found) < 2 and small is not None and small != case:
        together = (
            Trial(f"{trial.words}, with {smallest.words}", {**smallest.wishes, **trial.wishes})
            for trial in _trials(small, replace(wishes, **smallest.wishes))
        )
        found += islice(_that_fit(case, wishes, chain([smallest], together)), MOST_CHANGES - len(found))
    return tuple(found)


def _that_fit(case: Case, wishes: Wishes, trials: Iterable[Trial]) -> Iterator[Change]:
    for trial in trials:
        tried = _settled(case, wishes, trial)
        if tried is not None and fits(tried):
            yield Change(trial.words, trial.wishes, tried)


def _settled(case: Case, wishes: Wishes, trial: Trial) -> Case | None:
    """None where no such run is possible."""
    try:
        return settle(case.shape, case.gpu, replace(wishes, **trial.wishes))
    except ClusterlmError:
        return None


def _trials(case: Case, wishes: Wishes) -> Iterator[Trial]:
    yield from _training_trials(case, wishes) if case.workload.trains else _generation_trials(case)
    yield from _more_gpus(case, wishes)
    yield from _shorter(case, wishes)


def _training_trials(case: Case, wishes: Wishes) -> Iterator[Trial]:
    workload, strategy = case.workload, case.strategy
    if not workload.checkpointing:
        yield Trial("gradient checkpointing", {"gradient_checkpointing": True})
    if smaller := _fitting_batch(case):
        count, steps = smaller.workload.batch, smaller.accumulation_steps
        words = f"micro-batch {count}, {steps} of them a step" if steps > 1 else f"micro-batch {count}"
        yield Trial(words, {"micro_batch": count, "batch": smaller.global_batch})
    if strategy.gpus > 1 and strategy.sharding not in SHARDS_PARAMETERS and not wishes.offload:
        if workload.optimizer in UNCUT_BY_FSDP:
            yield Trial("sharding by ZeRO-3", {"strategy": "zero3"})
        else:
            yield Trial("sharding by FSDP", {"strategy": "fsdp"})
    if workload.method == "full":
        if workload.optimizer in ("adamw", "adamw-fused"):
            yield Trial("AdamW in 8 bits", {"optimizer": "adamw-8bit"})
        yield Trial("LoRA", {"method": "lora"})
    if workload.method in ("full", "lora") and not case.shape.quantisation:
        yield Trial("QLoRA (4-bit weights)", {"method": "qlora"})


def _generation_trials(case: Case) -> Iterator[Trial]:
    workload = case.workload
    if workload.attention == "eager":
        yield Trial("fused attention", {"attention": "sdpa"})
    if smaller := _fitting_batch(case):
        yield Trial(f"batch {smaller.workload.batch}", {"batch": smaller.workload.batch})
    if workload.quantise is None and case.shape.quantisation is None:
        eight_bits = QUANTISED_WHILE_LOADING[workload.software.engine][0]
        yield Trial("weights in 8 bits", {"quantize": eight_bits})
        yield Trial("weights in 4 bits", {"quantize": "nf4"})


def _more_gpus(case: Case, wishes: Wishes) -> Iterator[Trial]:
    """The smallest power of two that fits, cut as the engine usually does."""
    strategy = case.strategy
    name: str
    if case.workload.trains:
        name = "zero3" if strategy.sharding == "zero3" or case.workload.optimizer in UNCUT_BY_FSDP else "fsdp"
    else:
        name = "tensor" if case.workload.software.engine == "vllm" else "pipeline"
    count = 1 << strategy.gpus.bit_length()
    while count <= MOST_GPUS:
        nodes = -(-count // strategy.gpus_per_node)
        where = "" if nodes == 1 else f" on {nodes} nodes of {strategy.gpus_per_node}"
        trial = Trial(f"{count} GPUs{where}", {"gpus": count, "strategy": name})
        more = _settled(case, wishes, trial)
        if more is not None and fits(more):
            yield trial
            return
        count *= 2


def _shorter(case: Case, wishes: Wishes) -> Iterator[Trial]:
    length = case.workload.sequence_tokens // 2
    while length >= SHORTEST_SEQUENCE:
        if fits(_with(case, sequence_tokens=length)):
            yield Trial(f"sequences of {length:,} tokens", {"sequence_length": length})
            return
        length //= 2


def _smallest(case: Case) -> Trial:
    """Micro-batch 1 with checkpointing, or one sequence and 4-bit weights: what costs no further GPU."""
    workload = case.workload
    if workload.trains:
        words = "micro-batch 1" if workload.checkpointing else "micro-batch 1 and gradient checkpointing"
        asked = {"micro_batch": 1, "batch": case.global_batch, "gradient_checkpointing": True}
        return Trial(words, asked)
    if workload.quantise or case.shape.quantisation:
        return Trial("batch 1", {"batch": 1})
    return Trial("batch 1 and 4-bit weights", {"batch": 1, "quantize": "nf4"})


def _fitting_batch(case: Case) -> Case | None:
    """The same global batch in the largest micro-batches that fit; generation has no global batch to keep."""
    whole = case.workload.batch * case.accumulation_steps
    divides = [n for n in range(case.workload.batch - 1, 0, -1) if not case.workload.trains or whole % n == 0]
    batch = first_that_fits(divides, lambda n: fits(case.with_batch(n)))
    return None if batch is None else case.with_batch(batch)


def first_that_fits(batches: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Of batches that need less and less: by halving, as each one costs a footprint."""
    low, high = 0, len(batches)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(batches[middle]) else (middle + 1, high)
    return batches[low] if low < len(batches) else None


def largest_batch(case: Case) -> int:
    """Sequences at once on one GPU that still fit, other things equal; `case` fits."""
    return _largest(lambda batch: fits(_with(case, batch=batch)), case.workload.batch)


def _largest(fits_at: Callable[[int], bool], known: int) -> int:
    good, bad = known, known * 2
    while bad <= LARGEST_BATCH_TRIED and fits_at(bad):
        good, bad = bad, bad * 2
    bad = min(bad, LARGEST_BATCH_TRIED + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits_at(middle) else (good, middle)
    return good


def _with(case: Case, **settings: Any) -> Case:
    return replace(case, workload=replace(case.workload, **settings))
