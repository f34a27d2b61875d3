"""Order: a run as the jobs that Slurm is asked for, by the plan and by what the user says of the jobs."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clusterlm.cluster import Cluster
from clusterlm.errors import MissingPackage, RunError, UsageError
from clusterlm.model.shape import ModelShape
from clusterlm.planning.candidates import Candidate, Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.wishes import Wishes, said
from clusterlm.runs.account import measured_seconds_per_record
from clusterlm.runs.asked import Asked
from clusterlm.runs.decided import decided
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.request import job_of
from clusterlm.runs.steps import encoded, learned_examples, steps_of
from clusterlm.runs.submission import Submission
from clusterlm.runs.told import attempts_of
from clusterlm.runs.wished import QUANTISED, wishes_of
from clusterlm.slurm.environment import Environment, in_container
from clusterlm.slurm.header import log_path
from clusterlm.slurm.job import Job
from clusterlm.slurm.script import script
from clusterlm.spec import GenerateSpec, TrainSpec
from clusterlm.units import show_bytes

OF_PLACE = ("partition", "gpu", "gpus", "nodes", "copies")
"""Wishes that leave out places where a model could be."""
OF_WAY = ("strategy", "micro_batch", "gradient_checkpointing", "offload")
"""Wishes that leave out ways to train it there."""
SITES_OWN = "site"
"""As --container: the one that the profile names."""
SIGNAL_SHARE = 20
"""The signal to stop comes this part of the time limit before its end,"""
SIGNAL_SECONDS = (10, 120)
"""within these bounds. Slurm may be a minute early."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the user says of the jobs; None is 'as you think best'."""

    account: str | None = None
    qos: str | None = None
    seconds: int | None = None
    """Time limit of each job."""
    shards: int | None = None
    shard_seconds: int | None = None
    """How long a shard should take."""
    at_once: int | None = None
    """Shards that run at the same time, at most."""
    max_attempts: int = 20
    max_seconds: float | None = None
    """Of all attempts of a shard together."""
    options: tuple[str, ...] = ()
    """For sbatch, as they are."""
    container: str | None = None
    """Image to work in; "site": the one that the cluster's profile names."""

    def __post_init__(self) -> None:
        for name in ("seconds", "shards", "shard_seconds", "at_once", "max_attempts", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problem = "is less than a second" if name in FLAGS else f"{value:g} is less than 1"
                raise UsageError(problem, where=FLAGS.get(name, f"--{name.replace('_', '-')}"))
        if self.shards and self.shard_seconds:
            hint = "--shards says how many there are, --shard-minutes how long each may take"
            raise UsageError("contradict each other", where="--shards and --shard-minutes", hint=hint)


FLAGS = {"seconds": "--time", "shard_seconds": "--shard-minutes", "max_seconds": "--max-hours"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """All that a submit writes."""

    plan: Plan
    best: Candidate
    """Of one job."""
    job: Job
    submission: Submission
    script: str
    steps: int | None = None
    """Of a training, about."""


def order(
    asked: Asked[Any], run: RunFolder, cluster: Cluster, shape: ModelShape, placing: Wishes, terms: Terms
) -> Order:
    """UsageError or RunError where no such job can be; nothing is written or asked."""
    is_training = isinstance(asked.spec, TrainSpec)
    if is_training:
        _refuse_shards(terms)
    search, wishes = Search(shape), wishes_of(asked, run, cluster, shape, placing)
    if is_training:
        found, shards = _training(search, cluster, wishes, terms), 1
    else:
        found, shards = _in_shards(search, cluster, wishes, asked, run, terms)
    best = _best(found, asked, search)
    if is_training:
        _refuse_more_than_texts(best, asked, run)
    job = replace(_job(best, asked, run, shards, terms), environment=_environment(cluster, asked, terms))
    submission = Submission(
        cluster=cluster.name,
        model=asked.model_name,
        shards=shards,
        at_once=terms.at_once,
        gpus=best.allocated_gpus,
        seconds=job.seconds,
        max_attempts=terms.max_attempts,
        max_seconds=terms.max_seconds,
        settings=decided(asked.spec, best) if is_training else None,
    )
    steps = steps_of(run, asked.spec.model_dump(), asked.requests) if is_training else None
    return Order(plan=found, best=best, job=job, submission=submission, script=script(cluster, job), steps=steps)


# ------------------------------------------------------------------------------------------------------------ training


def _refuse_shards(terms: Terms) -> None:
    for name in ("shards", "shard_seconds", "at_once"):
        if getattr(terms, name) is not None:
            flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
            problem = "a training is one piece of work: each of its steps follows from the one before"
            raise UsageError(problem, where=flag, hint="leave it out; --gpus or --nodes let more of them share a step")


def _refuse_more_than_texts(best: Candidate, asked: Asked[TrainSpec], run: RunFolder) -> None:
    """Long texts are split: they are at least as many sequences as there are of full length in their tokens."""
    gpus, each = best.case.strategy.gpus, best.case.workload.sequence_tokens
    known, examples = encoded(run), learned_examples(asked.spec.model_dump(), asked.requests)
    sequences = known.sequences if known else max(examples, (best.asked.dataset_tokens or 0) // each)
    if gpus > sequences:
        problem = f"{gpus} GPUs share a step, and there are {sequences:,} texts to learn from"
        raise UsageError(problem, where="--gpus", hint=f"at most --gpus {sequences}")


def _training(search: Search, cluster: Cluster, wishes: Wishes, terms: Terms) -> Plan:
    try:
        found = plan(search, cluster, wishes)
    except UsageError as refusal:  # in the words of `clusterlm plan`
        words = (text and text.replace("--batch", "--global-batch-size") for text in (refusal.where, refusal.hint))
        where, hint = words
        raise UsageError(refusal.problem, where=where, hint=hint) from None
    return _with_packages(_with_bfloat16(found), terms)


def _with_bfloat16(found: Plan) -> Plan:
    """The plan counts what emulates it; the worker refuses to, for that is slow beyond use."""
    if found.wishes.dtype != "bfloat16" or not found.candidates:
        return found
    able = tuple(one for one in found.candidates if one.place.gpu.bfloat16)
    if not able:
        hint = "--dtype auto computes in float16 there, with float32 weights"
        name = found.candidates[0].place.gpu.name
        raise UsageError(f"{name} has no bfloat16", where="--dtype bfloat16", hint=hint)
    return replace(found, candidates=able)


def _with_packages(found: Plan, terms: Terms) -> Plan:
    """The ways that the installed packages have; a container has its own."""
    if terms.container or found.wishes.strategy or not found.candidates or find_spec("deepspeed") is not None:
        return found
    able = tuple(one for one in found.candidates if not one.way.strategy.startswith("zero"))
    if not able:
        hint = "pip install deepspeed"
        raise MissingPackage(f"only ZeRO fits on {found.cluster.name}, and it needs deepspeed", hint=hint)
    return replace(found, candidates=able)


# -------------------------------------------------------------------------------------------------------------- shards


def _in_shards(
    search: Search, cluster: Cluster, wishes: Wishes, asked: Asked[GenerateSpec], run: RunFolder, terms: Terms
) -> tuple[Plan, int]:
    found = plan(search, cluster, wishes)
    shards = min(_shards(_best(found, asked, search), asked, run, terms), asked.requests)
    if shards > 1:
        found = plan(search, cluster, replace(wishes, records=math.ceil(asked.requests / shards) * asked.spec.n))
    return found, shards


def _shards(best: Candidate, asked: Asked[GenerateSpec], run: RunFolder, terms: Terms) -> int:
    """By the time a shard should take: from what this run measured so far, else from the plan."""
    if terms.shard_seconds is None:
        return terms.shards or 1
    load = best.duration.load
    if load >= terms.shard_seconds:
        problem = f"loading the model alone takes about {load:.0f} s"
        raise UsageError(problem, where="--shard-minutes", hint="take longer shards")
    measured = measured_seconds_per_record(attempts_of(run))
    each = measured or (best.duration.middle - best.duration.jobs * load) / asked.requests
    return max(1, math.ceil(asked.requests * each / (terms.shard_seconds - load)))


# --------------------------------------------------------------------------------------------------- what does not fit


def _best(found: Plan, asked: Asked[Any], search: Search) -> Candidate:
    if found.best is not None:
        return found.best
    closest, name = found.closest, found.cluster.name
    assert closest is not None
    lack = (
        f" (it needs {show_bytes(closest.needed)}, there is {show_bytes(closest.available)})" if closest.needed else ""
    )
    ways = _ways_out(found, search)
    trains = found.wishes.asked_task == "train"
    flags = f"--method {found.wishes.method}" if trains else f"--new-tokens {found.wishes.new_tokens}"
    hint = f"clusterlm plan {asked.model_path} --on {name} {flags} tells all ways"
    if ways:
        hint = f"it fits with {' or '.join(ways)}"
    raise RunError(f"does not fit on {name}: {closest.item} on {closest.place.node_name}{lack}", hint=hint)


def _ways_out(found: Plan, search: Search) -> list[str]:
    """Flags with which the same model fits on the same cluster, each of them planned."""
    ways = [_other_settings(found, search)]
    for names in (OF_PLACE, OF_WAY, (*OF_PLACE, *OF_WAY)):
        anywhere = replace(found.wishes, **dict.fromkeys(names))
        if anywhere != found.wishes and (best := plan(search, found.cluster, anywhere).best):
            ways.append(_flags(found.wishes, best))
            break
    return [way for way in ways if way]


def _other_settings(found: Plan, search: Search) -> str:
    """The first that helps, with which the result changes least."""
    wishes = found.wishes
    if wishes.asked_task == "train":
        return found.remedies[0].flags if found.remedies else ""
    for name, as_planned in QUANTISED.items():
        if as_planned is not None and plan(search, found.cluster, replace(wishes, quantize=as_planned)).best:
            return f"--quantize {name}"
    return ""


def _flags(wishes: Wishes, best: Candidate) -> str:
    """Where it is instead; of a training also how, as far as the user had chosen that."""
    place = best.place
    words = [f"--partition {place.partition_name} --gpu {place.gpu.key} --gpus {best.case.strategy.gpus}"]
    instead = best.wishes
    for name in OF_WAY:
        if best.case.workload.trains and getattr(wishes, name) not in (None, getattr(instead, name)):
            words.append(said(name, getattr(instead, name) or "none"))
    return " ".join(words)


# ------------------------------------------------------------------------------------------------------------- the job


def _environment(cluster: Cluster, asked: Asked[Any], terms: Terms) -> Environment:
    """That of this process, but where a container is asked for."""
    if terms.container is None:
        return Environment()
    software = cluster.software
    image = software.container if terms.container == SITES_OWN and software else terms.container
    if image is None or image == SITES_OWN:
        hint = "--container IMAGE, or leave it out"
        raise UsageError(f"the profile of {cluster.name} names no container", where="--container site", hint=hint)
    model = asked.model_path.absolute()
    if model.parent.name == "snapshots":  # of the hub's cache: links into the folder beside it
        model = model.parents[1]
    others = (Path(place).parent for place in asked.other_places.values())
    folders = dict.fromkeys((model, asked.input_path.absolute().parent, asked.output_path.absolute().parent, *others))
    binds = (*(software.binds if software else ()), *map(str, folders))
    return in_container(image, package=str(Path(__file__).parents[1]), binds=binds)


def _job(best: Candidate, asked: Asked[Any], run: RunFolder, shards: int, terms: Terms) -> Job:
    seconds = terms.seconds or best.duration.asked
    plain = job_of(best, asked.model_name)
    shortest, longest = SIGNAL_SECONDS
    return replace(
        plain,
        name=run.name,
        run=str(run.path),
        python=sys.executable,
        ranks_per_node=_ranks_per_node(best),
        tasks=tuple(range(shards)) if shards > 1 else None,
        tasks_at_once=terms.at_once,
        seconds=seconds,
        signal_seconds=min(longest, max(shortest, seconds // SIGNAL_SHARE)),
        output=log_path(str(run.path), range(shards) if shards > 1 else None),
        account=terms.account,
        qos=terms.qos,
        options=terms.options,
    )


def _ranks_per_node(best: Candidate) -> int:
    """A process for each copy that generates; of what trains one for each GPU."""
    processes = best.case.strategy.gpus if best.case.workload.trains else best.way.count_of_copies
    return max(1, processes // best.nodes)
