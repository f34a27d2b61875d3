"""How long a case takes: one step, its parts, and how far such predictions usually are off."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.planning.case import Case
from clusterlm.planning.efficiency import Generating, Learned, Training, generating_key, learned, training_key
from clusterlm.planning.links import Links, usual_links
from clusterlm.planning.step_time import Parts, groups_experts, prefill_seconds, token_seconds
from clusterlm.planning.stored import loaded_bytes, published_bytes
from clusterlm.planning.training_time import training_seconds
from clusterlm.planning.work import work_of

UNMEASURED_SPREAD = 2.0
"""Of an engine without a measurement."""
UNMEASURED_GPU_FACTOR = 1.25
"""The spread is wider by this where the engine was measured on other GPUs only."""
UNMEASURED_BATCH_FACTOR = 1.25
"""And by this for several texts at once, and for embedding: almost all rows generate one."""
UNMEASURED_FEATURES = {
    "DeepSpeed": 1.3, "mixtures of experts": 1.3, "mixtures by transformers 5": 1.3, "several nodes": 1.25,
    "offloading": 1.4, "tensor parallel": 1.25, "int8 of bitsandbytes": 1.3, "AMD": 1.25,
}  # fmt: skip
"""And by this for each of these that a case has and no measurement of its engine. Estimates: of a source that taught
nothing, 79 % lie within a factor 1.5 (docs/concepts/time.md), of one that did within 1.15; so what is new about one is
worth 1.3. What has more ways to go wrong has more."""
MOST_UNMEASURED_SPREAD = 3.0
"""All of that together goes no further: it is physics still."""
START_SECONDS = 60.0
"""Python, torch and transformers from a shared file system, and the GPU's context. Generous: 38 s were measured for
transformers 5 from a local disk, loading included."""

__all__ = ["Links", "Pace", "load_seconds", "pace", "usual_links"]


@dataclass(frozen=True)
class Pace:
    """How fast a case goes once it is loaded, and how sure that is."""

    tokens_per_second: float
    """All GPUs together. Training: trained tokens; generation: new tokens, the prompts' time included; embedding: the
    prompts' tokens."""
    step_seconds: float
    """One optimizer step with its accumulation; one batch from prompt to last token; one forward pass."""
    parts: tuple[tuple[str, float], ...]
    """Named seconds of the step, which add up to it."""
    spread: float
    """80 % of such predictions lie within middle / spread .. middle x spread."""
    basis: str


def pace(case: Case, links: Links) -> Pace:
    known = learned()
    parts = step_parts(case, links, known)
    seconds = sum(parts.values())
    spread, basis = confidence(case, known)
    return Pace(tokens_of_a_step(case) / seconds, seconds, tuple(parts.items()), spread, basis)


def tokens_of_a_step(case: Case) -> int:
    workload, copies = case.workload, max(1, case.strategy.data_degree)
    if workload.task == "train":
        return workload.tokens * copies * case.accumulation_steps
    each = workload.sequence_tokens if workload.task == "embed" else max(1, workload.new_tokens)
    return max(1, workload.batch) * each * copies


def step_parts(case: Case, links: Links, known: Learned) -> Parts:
    """Seconds of the step by what takes them; `prefill` is a part of its own."""
    workload = case.workload
    if workload.task == "train":
        trainer = known.training.get(training_key(workload)) or known.training.get("other") or Training()
        return training_seconds(case, trainer, links, known)
    engine = known.generating.get(generating_key(workload)) or known.generating.get("other") or Generating()
    prefill = prefill_seconds(case, engine, known, links)
    if workload.task == "embed":
        return prefill
    # The prefill gives the first token; the cache grows evenly, so the middle step is the mean one.
    steps = max(1, workload.new_tokens) - 1
    token = token_seconds(case, engine, known, workload.sequence_tokens + steps / 2, links)
    return {"prefill": sum(prefill.values())} | {name: steps * seconds for name, seconds in token.items()}


def features(case: Case) -> list[str]:
    """Of UNMEASURED_FEATURES those that the case has."""
    strategy, work = case.strategy, work_of(case.shape, case.workload)
    together = strategy.gpus if case.workload.trains else strategy.tensor_degree * strategy.pipeline_degree
    has = (
        ("DeepSpeed", strategy.sharding.startswith("zero")),
        ("mixtures of experts", work.mixtures and not groups_experts(case)),
        ("mixtures by transformers 5", work.mixtures and groups_experts(case)),
        ("several nodes", together > strategy.gpus_per_node),
        ("offloading", strategy.offload != "none"),
        ("tensor parallel", strategy.tensor_degree > 1),
        ("int8 of bitsandbytes", work.stored == "int8"),
        ("AMD", case.gpu.vendor == "amd"),
    )
    return [name for name, there in has if there]


def confidence(case: Case, known: Learned) -> tuple[float, str]:
    """The spread, and what it rests on in words."""
    trains = case.workload.task == "train"
    key = training_key(case.workload) if trains else generating_key(case.workload)
    name = f"{'training' if trains else 'generating'}: {key}"
    here = f"{name}: {case.gpu.key}"
    if here in known.spread:
        spread, basis = known.spread[here], f"{key} measured on {case.gpu.name} by {known.rows[here]} rows"
    elif name in known.spread:
        spread = known.spread[name] * UNMEASURED_GPU_FACTOR
        basis = f"data sheet of {case.gpu.name}; {key} measured on other GPUs by {known.rows[name]} rows"
    else:
        spread, basis = UNMEASURED_SPREAD, f"data sheet; no measurement of {key}"
    alone = trains or (case.workload.task == "generate" and case.workload.batch == 1)
    wider = spread if alone else spread * UNMEASURED_BATCH_FACTOR
    missing = [one for one in features(case) if one not in known.features.get(name, ())]
    for one in missing:
        wider *= UNMEASURED_FEATURES[one]
    # What is known to be far off is not brought nearer.
    spread = max(spread, min(wider, MOST_UNMEASURED_SPREAD))
    if missing and name in known.spread:
        basis += f", without {' or '.join(filter(None, (', '.join(missing[:-1]), missing[-1])))}"
    return spread, basis


def load_seconds(case: Case, links: Links) -> float:
    """From the start of the process until the model is on its GPUs; a node reads the files once, through its cache, and
    all nodes of the case together no faster than the file system gives. The planner asks for one copy of a model that
    generates, so that counts the nodes of one."""
    per_gpu = loaded_bytes(case.shape, case.workload) / (case.strategy.tensor_degree * case.strategy.pipeline_degree)
    files, nodes = published_bytes(case.shape), case.strategy.nodes
    each, together = links.storage_gb_per_second, links.all_storage_gb_per_second
    read = max(files / each, nodes * files / together) / 1e9
    return START_SECONDS + read + per_gpu / (case.gpu.host_link_gb_per_second * 1e9 * 0.5)
