"""Order: a run as the jobs that Slurm is asked for, by the plan and by what the user says of the jobs."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from clusterlm.cluster import Cluster
from clusterlm.errors import RunError, UsageError
from clusterlm.model.shape import ModelShape
from clusterlm.planning.candidates import Candidate, Search
from clusterlm.planning.planner import Plan, plan
from clusterlm.planning.wishes import Wishes
from clusterlm.records.request import Request
from clusterlm.runs.account import measured_seconds_per_record
from clusterlm.runs.asked import Asked
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.request import job_of
from clusterlm.runs.submission import Submission
from clusterlm.runs.told import attempts_of
from clusterlm.slurm.environment import Environment, in_container
from clusterlm.slurm.header import log_path
from clusterlm.slurm.job import Job
from clusterlm.slurm.script import script
from clusterlm.spec import GenerateSpec
from clusterlm.units import show_bytes

CHARACTERS_PER_TOKEN = 4
"""Of English text, about. Source: https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them"""
LOOKED_AT = 1000
"""Requests from whose length that of all is guessed."""
QUANTISED = {"none": None, "int8": "int8", "nf4": "nf4-dq"}
"""What a plan calls it: the worker's nf4 quantises the scales too."""
OF_PLACE = ("partition", "gpu", "gpus", "nodes", "copies")
"""Wishes that leave out places where a model could be."""
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


def order(
    asked: Asked[GenerateSpec], run: RunFolder, cluster: Cluster, shape: ModelShape, placing: Wishes, terms: Terms
) -> Order:
    """UsageError or RunError where no such job can be; nothing is written or asked."""
    search, wishes = Search(shape), _wishes(asked, shape, placing)
    found = plan(search, cluster, wishes)
    shards = min(_shards(_best(found, asked, search), asked, run, terms), asked.requests)
    if shards > 1:
        found = plan(search, cluster, replace(wishes, records=math.ceil(asked.requests / shards) * asked.spec.n))
    best = _best(found, asked, search)
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
    )
    return Order(plan=found, best=best, job=job, submission=submission, script=script(cluster, job))


def _wishes(asked: Asked[GenerateSpec], shape: ModelShape, placing: Wishes) -> Wishes:
    """`placing`: those about the place and the way."""
    spec = asked.spec
    prompt = _prompt_tokens(asked)
    if shape.context_tokens:
        prompt = max(1, min(prompt, shape.context_tokens - spec.max_new_tokens))
    return replace(
        placing,
        task="generate",
        engine="transformers",
        sequence_length=prompt,
        new_tokens=spec.max_new_tokens,
        dtype=None if spec.dtype == "auto" else spec.dtype,
        quantize=QUANTISED[spec.quantize],
        records=asked.requests * spec.n,
    )


def _prompt_tokens(asked: Asked[GenerateSpec]) -> int:
    """The mean of the first requests', guessed by their characters: a tokenizer would have to be loaded."""
    lengths = [_characters(request) for request in islice(asked.source(), LOOKED_AT)]
    return max(1, round(sum(lengths) / len(lengths) / CHARACTERS_PER_TOKEN))


def _characters(request: Request) -> int:
    return len(request.prompt or "") + sum(len(str(turn.get("content") or "")) for turn in request.messages or ())


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


def _best(found: Plan, asked: Asked[GenerateSpec], search: Search) -> Candidate:
    if found.best is not None:
        return found.best
    closest, name = found.closest, found.cluster.name
    assert closest is not None
    lack = (
        f" (it needs {show_bytes(closest.needed)}, there is {show_bytes(closest.available)})" if closest.needed else ""
    )
    ways = _ways_out(found, search)
    hint = f"clusterlm plan {asked.model_path} --on {name} --new-tokens {asked.spec.max_new_tokens} tells all ways"
    if ways:
        hint = f"it fits with {' or '.join(ways)}"
    raise RunError(f"does not fit on {name}: {closest.item} on {closest.place.node_name}{lack}", hint=hint)


def _ways_out(found: Plan, search: Search) -> list[str]:
    """Flags with which the same model fits on the same cluster."""
    wishes, ways = found.wishes, []
    for name, as_planned in QUANTISED.items():
        if as_planned is not None and plan(search, found.cluster, replace(wishes, quantize=as_planned)).best:
            ways.append(f"--quantize {name}")
            break
    anywhere = replace(wishes, **dict.fromkeys(OF_PLACE))
    if anywhere != wishes and (best := plan(search, found.cluster, anywhere).best):
        place = best.place
        ways.append(f"--partition {place.partition_name} --gpu {place.gpu.key} --gpus {best.case.strategy.gpus}")
    return ways


def _environment(cluster: Cluster, asked: Asked[GenerateSpec], terms: Terms) -> Environment:
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
    folders = dict.fromkeys((model, asked.input_path.absolute().parent, asked.output_path.absolute().parent))
    binds = (*(software.binds if software else ()), *map(str, folders))
    return in_container(image, package=str(Path(__file__).parents[1]), binds=binds)


def _job(best: Candidate, asked: Asked[GenerateSpec], run: RunFolder, shards: int, terms: Terms) -> Job:
    seconds = terms.seconds or best.duration.asked
    plain = job_of(best, asked.model_name)
    shortest, longest = SIGNAL_SECONDS
    return replace(
        plain,
        name=run.name,
        run=str(run.path),
        python=sys.executable,
        ranks_per_node=max(1, best.way.count_of_copies // best.nodes),
        tasks=tuple(range(shards)) if shards > 1 else None,
        tasks_at_once=terms.at_once,
        seconds=seconds,
        signal_seconds=min(longest, max(shortest, seconds // SIGNAL_SHARE)),
        output=log_path(str(run.path), range(shards) if shards > 1 else None),
        account=terms.account,
        qos=terms.qos,
        options=terms.options,
    )
