"""Changes: what would make a case fit, found by trying; those that leave the result alone first, more GPUs last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from clusterlm.errors import ClusterlmError
from clusterlm.planning.case import Case
from clusterlm.planning.refusals import QUANTISED_WHILE_LOADING, refuse
from clusterlm.planning.room import available_bytes, fits
from clusterlm.strategy import SHARDS_PARAMETERS

MOST_CHANGES = 4
MOST_GPUS = 64
LARGEST_BATCH_TRIED = 4096
SHORTEST_SEQUENCE = 256


@dataclass(frozen=True)
class Change:
    """`flags` turn the command that was given into one that fits."""

    words: str
    flags: str
    case: Case
    needed: int

    @property
    def margin(self) -> int:
        return available_bytes(self.case) - self.needed


@dataclass(frozen=True)
class Trial:
    words: str
    flags: str
    case: Case


def helping_changes(case: Case) -> tuple[Change, ...]:
    """Each alone; where hardly any does, together with what needs no further GPU."""
    found = list(_that_fit(_trials(case)))
    smallest = _smallest(case)
    if len(found) < 2 and smallest.case != case:
        together = [_both(smallest, trial) for trial in _trials(smallest.case)]
        found += list(_that_fit(iter(together)))
    return tuple(found[:MOST_CHANGES])


def _that_fit(trials: Iterator[Trial]) -> Iterator[Change]:
    for trial in trials:
        if possible(trial.case) and fits(trial.case):
            yield Change(trial.words, trial.flags, trial.case, trial.case.on_gpu().needed)


def possible(case: Case) -> bool:
    try:
        refuse(case)
    except ClusterlmError:
        return False
    return True


def _both(first: Trial, second: Trial) -> Trial:
    return Trial(f"{second.words}, with {first.words}", f"{first.flags} {second.flags}", second.case)


def _trials(case: Case) -> Iterator[Trial]:
    if case.workload.trains:
        yield from _training_trials(case)
    else:
        yield from _generation_trials(case)
    yield from _more_gpus(case)
    yield from _shorter(case)


def _training_trials(case: Case) -> Iterator[Trial]:
    workload, strategy = case.workload, case.strategy
    if not workload.checkpointing:
        yield Trial("gradient checkpointing", "--gradient-checkpointing", _with(case, checkpointing=True))
    if smaller := _fitting_batch(case):
        flags = f"--micro-batch {smaller.workload.batch} --batch {smaller.global_batch}"
        steps = f", {smaller.accumulation_steps} of them a step" if smaller.accumulation_steps > 1 else ""
        yield Trial(f"micro-batch {smaller.workload.batch}{steps}", flags, smaller)
    if strategy.gpus > 1 and strategy.sharding not in SHARDS_PARAMETERS:
        sharded = replace(strategy, sharding="fsdp2", offload="none")
        yield Trial("sharding by FSDP", "--strategy fsdp", replace(case, strategy=sharded))
    if workload.method == "full":
        if workload.optimizer.startswith("adamw") and workload.optimizer != "adamw-8bit":
            yield Trial("AdamW in 8 bits", "--optimizer adamw-8bit", _with(case, optimizer="adamw-8bit"))
        frozen = {"autocast": True}
        yield Trial("LoRA", "--method lora", _with(case, method="lora", **frozen))
    if workload.method in ("full", "lora") and not case.shape.quantisation:
        quantised = _with(case, method="qlora", quantise="nf4", autocast=True)
        yield Trial("QLoRA (4-bit weights)", "--method qlora", quantised)


def _generation_trials(case: Case) -> Iterator[Trial]:
    workload = case.workload
    if workload.attention == "eager":
        yield Trial("fused attention", "--attention sdpa", _with(case, attention="sdpa"))
    if smaller := _fitting_batch(case):
        yield Trial(f"batch {smaller.workload.batch}", f"--batch {smaller.workload.batch}", smaller)
    if workload.quantise is None and case.shape.quantisation is None:
        eight_bits = QUANTISED_WHILE_LOADING[workload.software.engine][0]
        for scheme, words in ((eight_bits, "weights in 8 bits"), ("nf4", "weights in 4 bits")):
            yield Trial(words, f"--quantize {scheme}", _with(case, quantise=scheme))


def _more_gpus(case: Case) -> Iterator[Trial]:
    """The smallest power of two that fits, cut as the engine usually does."""
    strategy = case.strategy
    count = 1 << strategy.gpus.bit_length()
    while count <= MOST_GPUS:
        larger = replace(strategy, gpus=count)
        if case.workload.trains:
            sharding = strategy.sharding if strategy.sharding in SHARDS_PARAMETERS else "fsdp2"
            larger = replace(larger, sharding=sharding)
            name: str = "fsdp" if sharding == "fsdp2" else sharding
        elif case.workload.software.engine == "vllm":
            larger, name = replace(larger, tensor_degree=count), "tensor"
        else:
            larger, name = replace(larger, pipeline_degree=count), "pipeline"
        more = replace(case, strategy=larger)
        if possible(more) and fits(more):
            where = "" if larger.nodes == 1 else f" on {larger.nodes} nodes of {larger.gpus_per_node}"
            yield Trial(f"{count} GPUs{where}", f"--gpus {count} --strategy {name}", more)
            return
        count *= 2


def _shorter(case: Case) -> Iterator[Trial]:
    length = case.workload.sequence_tokens // 2
    while length >= SHORTEST_SEQUENCE:
        shorter = _with(case, sequence_tokens=length)
        if fits(shorter):
            yield Trial(f"sequences of {length:,} tokens", f"--sequence-length {length}", shorter)
            return
        length //= 2


def _smallest(case: Case) -> Trial:
    """Micro-batch 1 with checkpointing, or one sequence and 4-bit weights: what costs no further GPU."""
    if not case.workload.trains:
        small = _with(case, batch=1, quantise=case.workload.quantise or (None if case.shape.quantisation else "nf4"))
        flags = "--batch 1" + ("" if small.workload.quantise == case.workload.quantise else " --quantize nf4")
        return Trial("batch 1" if "nf4" not in flags else "batch 1 and 4-bit weights", flags, small)
    steps = case.accumulation_steps * case.workload.batch
    small = replace(_with(case, batch=1, checkpointing=True, accumulation=steps > 1), accumulation_steps=steps)
    words = "micro-batch 1" + ("" if case.workload.checkpointing else " and gradient checkpointing")
    flags = f"--micro-batch 1 --batch {small.global_batch} --gradient-checkpointing"
    return Trial(words, flags, small)


def _fitting_batch(case: Case) -> Case | None:
    """The same global batch in the largest micro-batches that fit; generation has no global batch to keep."""
    whole = case.workload.batch * case.accumulation_steps
    divides = [n for n in range(case.workload.batch - 1, 0, -1) if not case.workload.trains or whole % n == 0]
    candidates = [_with_batch(case, n, whole) for n in divides]
    return _first_that_fits(candidates)


def _with_batch(case: Case, batch: int, whole: int) -> Case:
    if not case.workload.trains:
        return _with(case, batch=batch)
    steps = whole // batch
    return replace(_with(case, batch=batch, accumulation=steps > 1), accumulation_steps=steps)


def _first_that_fits(cases: list[Case]) -> Case | None:
    """Of cases that need less and less: by halving, as each one costs a footprint."""
    low, high = 0, len(cases)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(cases[middle]) else (middle + 1, high)
    return cases[low] if low < len(cases) else None


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


def _with(case: Case, **settings: object) -> Case:
    return replace(case, workload=replace(case.workload, **settings))  # type: ignore[arg-type]
