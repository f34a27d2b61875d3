"""How long a case takes: one step, its parts, and how far such predictions usually are off."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.planning.case import Case
from clusterlm.planning.efficiency import Generating, Learned, Training, generating_key, learned, training_key
from clusterlm.planning.links import Links, usual_links
from clusterlm.planning.step_time import Parts, prefill_seconds, token_seconds
from clusterlm.planning.stored import loaded_bytes, published_bytes
from clusterlm.planning.training_time import training_seconds

UNMEASURED_SPREAD = 2.0
"""Of an engine without a measurement."""
UNMEASURED_GPU_FACTOR = 1.25
"""The spread is wider by this where the engine was measured on other GPUs only."""
UNMEASURED_BATCH_FACTOR = 1.25
"""And by this for several texts at once, and for embedding: almost all rows generate one."""
START_SECONDS = 60.0
"""Python, torch and transformers from a shared file system, and the GPU's context. Generous: 38 s were measured for
transformers 5 from a local disk, loading included."""

__all__ = ["Links", "Pace", "load_seconds", "pace", "usual_links"]


@dataclass(frozen=True)
class Pace:
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


def confidence(case: Case, known: Learned) -> tuple[float, str]:
    """The spread, and what it rests on in words."""
    trains = case.workload.task == "train"
    key = training_key(case.workload) if trains else generating_key(case.workload)
    name = f"{'training' if trains else 'generating'}: {key}"
    here = f"{name}: {case.gpu.key}"
    alone = trains or (case.workload.task == "generate" and case.workload.batch == 1)
    batched = 1.0 if alone else UNMEASURED_BATCH_FACTOR
    if here in known.spread:
        return known.spread[here] * batched, f"{key} measured on {case.gpu.name} by {known.rows[here]} rows"
    if name in known.spread:
        spread = known.spread[name] * UNMEASURED_GPU_FACTOR * batched
        return spread, f"data sheet of {case.gpu.name}; {key} measured on other GPUs by {known.rows[name]} rows"
    return UNMEASURED_SPREAD, f"data sheet; no measurement of {key}"


def load_seconds(case: Case, links: Links) -> float:
    """From the start of the process until the model is on its GPUs; a node reads the files once, through its cache."""
    per_gpu = loaded_bytes(case.shape, case.workload) / (case.strategy.tensor_degree * case.strategy.pipeline_degree)
    read = published_bytes(case.shape) / (links.storage_gb_per_second * 1e9)
    return START_SECONDS + read + per_gpu / (case.gpu.host_link_gb_per_second * 1e9 * 0.5)
