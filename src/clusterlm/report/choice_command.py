"""The command that does what was planned, where `clusterlm generate` or `clusterlm train` does just this."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clusterlm.planning.candidates import Candidate
from clusterlm.planning.planner import Plan
from clusterlm.planning.wishes import said
from clusterlm.report.choice_flags import as_flag, pinned
from clusterlm.runs.request import job_of

IN_ONE_PROCESS = ("single", "pipeline")
"""Strategies that `clusterlm generate` has by itself; its jobs have several processes, each with a copy."""
QUANTISED = {"int8": "int8", "nf4": "nf4", "nf4-dq": "nf4"}
"""What its --quantize takes, by a plan's: its nf4 quantises the scales too."""
ATTENTION = (None, "sdpa")
"""What it computes with."""
PLACING = ("account", "partition", "gpu", "gpus", "copies")
TRAINED = ("single", "ddp", "fsdp", "zero1", "zero2", "zero3")
"""Strategies of `clusterlm train`."""
OFFLOADED = ("none", "optimizer-cpu", "cpu")
OF_TRAINING = ("lora_rank", "lora_targets", "dtype", "attention", "optimizer", "sequence_length", "epochs")
"""Wishes that stand in its command where they were asked for."""


def run_command(plan: Plan, model: str, one: Candidate, on: Sequence[str]) -> str | None:
    """None where clusterlm has no command that does just this.

    `on`: the words that name the cluster, as the user gave them: --on lumi, or --cluster FILE.
    """
    if _generates(one):
        words = _generation(plan, model, one)
    elif _trains(one):
        words = _training(plan, model, one)
    else:
        return None
    if takes_jobs(one):
        words += [shlex.join(on), placing_flags(plan, one)]
    elif one.case.workload.trains and one.case.strategy.gpus > 1:
        words.append(said("gpus", one.case.strategy.gpus))
    return " ".join(words)


def _generation(plan: Plan, model: str, one: Candidate) -> list[str]:
    workload = one.case.workload
    words = ["clusterlm", "generate", shlex.quote(model), "INPUT", "-o", "OUTPUT"]
    words += ["--max-new-tokens", str(workload.new_tokens)]
    if one.wishes.dtype:
        words += ["--dtype", one.wishes.dtype]
    if workload.quantise:
        words += ["--quantize", QUANTISED[workload.quantise]]
    if one.case.strategy.gpus == 1 < _visible_gpus(one):
        words += ["--device-map", "cuda:0"]  # by itself it lays a model over all GPUs that it sees
    if plan.wishes.batch:
        words += ["--max-batch-tokens", str(workload.batch * one.case.tokens_each)]
    return words


def _training(plan: Plan, model: str, one: Candidate) -> list[str]:
    case, wishes = one.case, one.wishes
    words = ["clusterlm", "train", shlex.quote(model), "DATA", "-o", "OUTPUT", said("method", case.workload.method)]
    words += [as_flag(name, value) for name in OF_TRAINING if (value := getattr(plan.wishes, name)) is not None]
    words += [said("global_batch_size", case.global_batch), said("micro_batch", case.workload.batch)]
    words.append(said("gradient_checkpointing", case.workload.checkpointing))
    if case.strategy.gpus > 1:
        words.append(said("strategy", wishes.strategy))
    if case.strategy.offload != "none":
        words.append(said("offload", case.strategy.offload))
    if plan.wishes.keep_checkpoints:
        words.append(said("keep_checkpoints", plan.wishes.keep_checkpoints))
    return words


def placing_flags(plan: Plan, one: Candidate) -> str:
    """Of the flags that pin this plan those that commands with --on take: where, how many; and who pays."""
    found = pinned(plan, one)
    if one.way.count_of_copies > 1:
        found["copies"] = one.way.count_of_copies
    if account := job_of(one, "").account:
        found["account"] = account
    return " ".join(as_flag(name, found[name]) for name in PLACING if name in found)


def takes_jobs(one: Candidate) -> bool:
    cluster = one.place.cluster
    return cluster.slurm and cluster.status != "retired"


def _generates(one: Candidate) -> bool:
    """Whether `clusterlm generate` runs it: copies of a decoder, each in one process on one node."""
    case = one.case
    workload, stored = case.workload, case.shape.quantisation
    loadable = (workload.quantise or "int8") in QUANTISED and (stored is None or stored.method in QUANTISED)
    by_transformers = workload.task == "generate" and workload.software.engine == "transformers"
    is_decoder = not case.shape.encoder_layers
    return by_transformers and loadable and is_decoder and one.wishes.attention in ATTENTION and _is_launched(one)


def _trains(one: Candidate) -> bool:
    """Whether `clusterlm train` runs it: a decoder that is stored unquantised, in the usual types."""
    case, wishes = one.case, one.wishes
    workload = case.workload
    as_usual = wishes.autocast is None and wishes.quantize is None and case.shape.quantisation is None
    can_learn = not (workload.method == "full" and wishes.dtype == "float16")
    way = wishes.strategy in TRAINED and case.strategy.offload in OFFLOADED
    return workload.trains and as_usual and can_learn and way and not case.shape.encoder_layers


def _is_launched(one: Candidate) -> bool:
    """Whether its processes get just the GPUs of the plan: each lays its copy over all that it sees."""
    wishes, gpus = one.wishes, one.case.strategy.gpus
    if one.way.count_of_copies == 1:
        return wishes.strategy in IN_ONE_PROCESS and one.nodes == 1 and gpus in (1, _visible_gpus(one))
    return takes_jobs(one) and wishes.strategy in (*IN_ONE_PROCESS, "ddp") and gpus == one.allocated_gpus


def _visible_gpus(one: Candidate) -> int:
    """Of its node: without Slurm all that are there."""
    place = one.place
    return one.allocated_gpus // one.nodes if place.cluster.slurm else place.node.gpus
