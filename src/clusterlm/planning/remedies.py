"""Remedies: other wishes with which a model fits on a cluster where this one does not; each was planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from clusterlm.errors import ClusterlmError
from clusterlm.planning.candidates import Candidate, Rejected, Search
from clusterlm.planning.changes import SHORTEST_SEQUENCE, Trial, flags_of
from clusterlm.planning.places import Place
from clusterlm.planning.refusals import QUANTISED_WHILE_LOADING
from clusterlm.planning.settle import SEQUENCE_TOKENS
from clusterlm.planning.ways import EFFORTS
from clusterlm.planning.wishes import Wishes

MOST_REMEDIES = 3


@dataclass(frozen=True)
class Remedy:
    """Other wishes that were planned, and fit."""

    words: str
    flags: str
    """What to add to the command that was given."""
    candidate: Candidate
    """On the fewest GPUs."""


def remedies(search: Search, where: Sequence[Place], wishes: Wishes, lacking: Rejected) -> tuple[Remedy, ...]:
    """`lacking`: what comes nearest as it is; shorter sequences do not help the host."""
    trials = chain(_trials(search, wishes), () if lacking.on_host else _shorter(wishes))
    return tuple(islice(_that_fit(search, where, wishes, trials), MOST_REMEDIES))


def _that_fit(search: Search, where: Sequence[Place], wishes: Wishes, trials: Iterable[Trial]) -> Iterator[Remedy]:
    for trial in trials:
        try:
            candidates, _ = search.run(where, replace(wishes, **trial.wishes), EFFORTS[:2])
        except ClusterlmError:  # wishes that contradict what was asked already
            continue
        if candidates:
            fewest = min(candidates, key=lambda one: (one.tight, one.case.strategy.gpus))
            yield Remedy(trial.words, flags_of(trial.wishes), fewest)


def _trials(search: Search, wishes: Wishes) -> Iterator[Trial]:
    """Those that leave the result alone first."""
    stored = search.shape.quantisation is not None
    if wishes.asked_task == "train":
        method = wishes.method or "full"
        if wishes.micro_batch and wishes.micro_batch > 1:
            yield Trial("micro-batch 1", {"micro_batch": 1})
        if method == "full":
            yield Trial("AdamW in 8 bits", {"optimizer": "adamw-8bit"})
        if method != "lora" and not stored:
            yield Trial("LoRA", {"method": "lora"})
        if method != "qlora" and not stored:
            yield Trial("QLoRA (4-bit weights)", {"method": "qlora"})
    else:
        if wishes.batch and wishes.batch > 1:
            yield Trial("batch 1", {"batch": 1})
        if not wishes.quantize and not stored:
            yield Trial("weights in 8 bits", {"quantize": QUANTISED_WHILE_LOADING[wishes.engine or "transformers"][0]})
            yield Trial("weights in 4 bits", {"quantize": "nf4"})
        if wishes.engine != "vllm" and wishes.asked_task == "generate":
            yield Trial("vLLM, which cuts a model over several nodes", {"engine": "vllm"})


def _shorter(wishes: Wishes) -> Iterator[Trial]:
    length = (wishes.sequence_length or SEQUENCE_TOKENS) // 2
    while length >= SHORTEST_SEQUENCE:
        yield Trial(f"sequences of {length:,} tokens", {"sequence_length": length})
        length //= 2
