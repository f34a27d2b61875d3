"""What a run wishes of its plan: its settings in the planner's words, and its work by the texts themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from clusterlm.cluster import Cluster
from clusterlm.errors import UsageError
from clusterlm.model.shape import ModelShape
from clusterlm.planning.places import places
from clusterlm.planning.settle import SEQUENCE_TOKENS
from clusterlm.planning.wishes import Wishes
from clusterlm.records.request import Request
from clusterlm.runs.asked import Asked
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.steps import encoded, learned_examples
from clusterlm.spec import GenerateSpec, TrainSpec

CHARACTERS_PER_TOKEN = 4
"""Of English text, about. Source: https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them"""
LOOKED_AT = 1000
"""Requests or examples from whose length that of all is guessed: a tokenizer would have to be loaded."""
QUANTISED = {"none": None, "int8": "int8", "nf4": "nf4-dq"}
"""What a plan calls it: the worker's nf4 quantises the scales too."""
OPEN = ("auto", "none")
"""Settings that leave the choice to the plan."""


def wishes_of(asked: Asked[Any], run: RunFolder, cluster: Cluster, shape: ModelShape, placing: Wishes) -> Wishes:
    """`placing`: those about the place and the way, which the command line has beside the settings."""
    if isinstance(asked.spec, TrainSpec):
        return _of_training(asked, run, cluster, shape, placing)
    return _of_generation(asked, shape, placing)


def _of_generation(asked: Asked[GenerateSpec], shape: ModelShape, placing: Wishes) -> Wishes:
    spec = asked.spec
    prompt = _mean_tokens(_characters(request) for request in islice(asked.source(), LOOKED_AT))
    if shape.context_tokens:
        prompt = max(1, min(prompt, shape.context_tokens - spec.max_new_tokens))
    return replace(
        placing,
        task="generate",
        engine="transformers",
        sequence_length=max(1, round(prompt)),
        new_tokens=spec.max_new_tokens,
        dtype=None if spec.dtype == "auto" else spec.dtype,
        quantize=QUANTISED[spec.quantize],
        records=asked.requests * spec.n,
    )


def _characters(request: Request) -> int:
    return len(request.prompt or "") + sum(len(str(turn.get("content") or "")) for turn in request.messages or ())


def _mean_tokens(characters: Iterable[int]) -> float:
    lengths = list(characters)
    return max(1.0, sum(lengths) / len(lengths) / CHARACTERS_PER_TOKEN)


# ------------------------------------------------------------------------------------------------------------ training


def _of_training(
    asked: Asked[TrainSpec], run: RunFolder, cluster: Cluster, shape: ModelShape, placing: Wishes
) -> Wishes:
    spec = asked.spec
    _refuse_copies(placing)
    if placing.gpus is None and placing.nodes is None:
        placing = replace(placing, gpus=spec.gpus)
    gpus = _gpus(cluster, placing)
    _refuse_to_idle(spec, gpus)
    micro_batch = None if spec.micro_batch is None else min(spec.micro_batch, spec.global_batch_size // (gpus or 1))
    at_once = (micro_batch or 1) * (gpus or 1)
    with_adapter = spec.method != "full"
    return replace(
        placing,
        task="train",
        method=spec.method,
        # Packed rows are fewer than the sequences of a step, so that any number of them may go together.
        batch=-(-spec.global_batch_size // at_once) * at_once,
        micro_batch=micro_batch,
        sequence_length=_row_tokens(spec, shape),
        dtype=_or_open(spec.dtype),
        attention=_or_open(spec.attention),
        strategy=_or_open(spec.strategy),
        offload=_or_open(spec.offload),
        gradient_checkpointing=spec.gradient_checkpointing,
        optimizer=spec.optimizer,
        lora_rank=spec.lora_rank if with_adapter else None,
        lora_targets=spec.lora_targets if with_adapter else None,
        keep_checkpoints=spec.keep_checkpoints,
        dataset_tokens=_tokens_of_epoch(asked, run, shape),
        epochs=spec.epochs,
    )


def _or_open(value: str) -> str | None:
    return None if value in OPEN else value


def _refuse_copies(placing: Wishes) -> None:
    if placing.copies is not None:
        problem = "a training is one model, which all GPUs of the job train together"
        raise UsageError(problem, where="--copies", hint="leave it out; --gpus and --strategy say how they share it")


def _gpus(cluster: Cluster, placing: Wishes) -> int | None:
    """None where the plan decides."""
    if placing.gpus is not None or placing.nodes is None:
        return placing.gpus
    return max(placing.nodes * place.node.gpus for place in places(cluster, placing))


def _refuse_to_idle(spec: TrainSpec, gpus: int | None) -> None:
    if gpus is None:
        return
    batch = spec.global_batch_size
    where = "--global-batch-size"
    if gpus > batch:
        problem = f"{gpus} GPUs share the {batch} sequences of a step: some would be idle"
        raise UsageError(problem, where=where, hint=f"at least {gpus}, or at most --gpus {batch}")
    if batch % gpus:
        problem = f"{batch} is no multiple of the {gpus} GPUs that share the sequences of a step"
        near = f"{where} {batch // gpus * gpus} or {-(-batch // gpus) * gpus}"
        raise UsageError(problem, where=where, hint=f"{near}, or another number of GPUs")


def _row_tokens(spec: TrainSpec, shape: ModelShape) -> int:
    """As the worker has them."""
    return spec.sequence_length or min(SEQUENCE_TOKENS, shape.context_tokens or SEQUENCE_TOKENS)


def _tokens_of_epoch(asked: Asked[TrainSpec], run: RunFolder, shape: ModelShape) -> int:
    """Where steps are counted instead, of all of them."""
    spec, known = asked.spec, encoded(run)
    if known is not None:
        sequences, each = known.sequences, known.tokens / known.sequences
    else:
        sequences = learned_examples(spec.model_dump(), asked.requests)
        each = _mean_tokens(example.characters for example in islice(asked.examples(), LOOKED_AT))
        if spec.too_long == "truncate":
            each = min(each, _row_tokens(spec, shape))
    if spec.max_steps is not None:
        sequences = spec.max_steps * spec.global_batch_size
    return max(1, round(sequences * each))
