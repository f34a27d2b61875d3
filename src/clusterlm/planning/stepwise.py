"""Memory of the installed transformers: the learned laws walked through a step, states and cache beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from clusterlm.model.shape import Attention, ModelShape
from clusterlm.planning.adapters import adapts
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.fsdp import (
    FSDP2_SOURCE,
    ShardedMoment,
    fsdp_states,
    sharded_moments,
    units_of,
)
from clusterlm.planning.generation import cache_bytes_per_sequence, slice_weight_items, slices
from clusterlm.planning.laws import Law, Moment, Setup, in_words, kept_formula, moments, nearest_law
from clusterlm.planning.sizes import Step
from clusterlm.planning.training import buckets, gathered, held_items, training_states
from clusterlm.planning.weights import Scheme, WeightSizes, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

LEARNED_METHODS = {"full": "full", "lora": "lora", "qlora": "lora"}
UNPACKS = ("nf4", "nf4-dq", "int8", "bitsandbytes")
"""bitsandbytes: a matrix is unpacked whole for each product."""


def training_setup(shape: ModelShape, workload: Workload) -> Setup | None:
    """None where no such step was learned."""
    method = LEARNED_METHODS.get(workload.method)
    if method is None or workload.attention == "eager" or workload.software.kernels != "plain":
        return None
    if workload.selective_checkpointing or workload.chunked_loss:
        return None
    if method == "lora" and _only_attention(shape, workload.lora_targets):
        method = "lora-attention"
    dtype = "autocast" if workload.autocast else "float32" if workload.dtype == "float32" else "bfloat16"
    mask = "window" if _passes_window(shape, workload.sequence_tokens) else "none"
    return Setup("train", method, workload.checkpointing, dtype, mask)


def _only_attention(shape: ModelShape, targets: tuple[str, ...]) -> bool:
    linears = [linear for layer, _ in shape.counted_layers for linear in layer.linears if adapts(linear, targets)]
    return bool(linears) and all(linear.name.startswith("attention.") for linear in linears)


def generation_setup(shape: ModelShape, workload: Workload) -> Setup | None:
    if workload.attention == "eager" or workload.kv_dtype or workload.cache_tokens:
        return None
    dtype = "float32" if workload.dtype == "float32" else "bfloat16"
    passes = _passes_window(shape, workload.sequence_tokens)
    mask = "padded" if workload.batch > 1 else "window" if passes else "none"
    return Setup("generate", dtype=dtype, mask=mask)


def _passes_window(shape: ModelShape, tokens: int) -> bool:
    windows = [layer.mixer.window for layer, _ in shape.counted_layers if isinstance(layer.mixer, Attention)]
    return any(window is not None and window < tokens for window in windows)


def stepwise_training_phases(
    shape: ModelShape, workload: Workload, strategy: Strategy, scheme: Scheme | None, workspace: int
) -> tuple[Phase, ...] | None:
    """None where nothing was learned of this architecture or this way to train it."""
    if in_units(shape, workload, strategy):
        return _fsdp_phases(shape, workload, strategy, workspace)
    setup = training_setup(shape, workload)
    law = nearest_law(shape, setup) if setup else None
    if setup is None or law is None:
        return None
    stored = replace(workload, dtype="float32") if setup.weights_in_float32 else workload
    weights = weight_sizes(shape, stored.dtype, scheme)
    states = training_states(shape, stored, weights, strategy)
    computing = weight_sizes(shape, workload.dtype, scheme)
    step = Step(workload.batch, workload.sequence_tokens, workload.sequence_tokens, _rank(workload))
    found = _training_moments(law, shape, step)
    held = (*held_items(states, workspace), *buckets(shape, stored, strategy, states))
    whole_forward, whole_backward = gathered(shape, workload, computing, strategy)
    unpacked = _unpacked(shape, workload, computing)
    ends = [one for one in found if one.phase == "forward"]
    layers = [one for one in found if one.phase == "backward"]
    shards, all_gradients = strategy.gradient_shards, states.gradients if workload.accumulation else None
    gradients = Item("gradients", states.gradients, "trained parameters x bytes / shards")
    temporaries = Item("optimizer's temporaries", states.step_temporaries, "one copy of the gradients (foreach)")
    return (
        Phase("load", held[:1]),
        Phase("forward", (*held, *whole_forward, *_items(ends, law, shards, all_gradients), *unpacked)),
        Phase("backward", (*held, *whole_backward, *_items(layers, law, shards, all_gradients), *unpacked)),
        Phase("optimizer step", (*held, gradients, temporaries)),
    )


def _training_moments(law: Law, shape: ModelShape, step: Step) -> list[Moment]:
    """Where a law of untied models stands in for a tied one: its table has one gradient more, as the head."""
    found = moments(law, shape, step, ("forward", "backward"))
    if not (shape.tied and "; untied;" in law.structure):
        return found
    more = ("backward", "embedding")
    return [one._replace(working=2 * one.working) if (one.phase, one.place) == more else one for one in found]


def in_units(shape: ModelShape, workload: Workload, strategy: Strategy) -> bool:
    """FSDP2 of whole matrices; whether packed ones belong to its units depends on the type they are packed in."""
    quantised = workload.quantise is not None or shape.quantisation is not None
    return strategy.sharding == "fsdp2" and strategy.model_shards > 1 and not quantised


def _fsdp_phases(shape: ModelShape, workload: Workload, strategy: Strategy, workspace: int) -> tuple[Phase, ...] | None:
    """As one GPU's step, with units gathered, reduced and let go around it."""
    # What autocast would cast is gathered in the compute type already.
    setup = training_setup(shape, replace(workload, autocast=False))
    law = nearest_law(shape, setup) if setup else None
    if setup is None or law is None:
        return None
    ranks = strategy.model_shards
    units = units_of(shape, workload, ranks)
    states = fsdp_states(shape, workload, strategy, units)
    step = Step(workload.batch, workload.sequence_tokens, workload.sequence_tokens, _rank(workload))
    cast = workload.autocast and workload.method != "full"
    found = (cast and _with_adapters_in_compute_type(shape, setup, step)) or _training_moments(law, shape, step)
    moments_of_rank = sharded_moments(found, units, carried=workload.accumulation)
    held = held_items(states, workspace)
    gradients = Item("gradients", states.gradients, "trained parameters x bytes / shards")
    temporaries = Item("optimizer's temporaries", states.step_temporaries, "one copy of the gradients (foreach)")
    parts = {
        phase: _sharded_items([one for one in moments_of_rank if one.phase == phase], law)
        for phase in ("forward", "backward")
    }
    return (
        Phase("load", tuple(held[:1])),
        Phase("forward", (*held, *parts["forward"])),
        Phase("backward", (*held, *parts["backward"])),
        Phase("optimizer step", (*held, gradients, temporaries)),
    )


@lru_cache(maxsize=16)
def _with_adapters_in_compute_type(shape: ModelShape, setup: Setup, step: Step) -> list[Moment] | None:
    """A step whose adapters compute in bfloat16 as all else, which was not learned: half of the one that is all in
    float32, and by how much full training in bfloat16 is above half of that in float32 (norms and the loss)."""
    full = replace(setup, method="full")
    setups = (replace(setup, dtype="float32"), full, replace(full, dtype="float32"))
    laws = [nearest_law(shape, one) for one in setups]
    adapters, half, whole = ({} if law is None else _by_place(law, shape, step) for law in laws)
    if not adapters or not adapters.keys() <= half.keys() or half.keys() != whole.keys():
        return None
    return [
        one._replace(
            kept=one.kept / 2 + half[key].kept - whole[key].kept / 2,
            gradients=one.gradients / 2,
            working=max(one.working / 2 + half[key].working - whole[key].working / 2, 0.0),
        )
        for key, one in adapters.items()
    ]


def _by_place(law: Law, shape: ModelShape, step: Step) -> dict[tuple[str, str, int], Moment]:
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for moment in _training_moments(law, shape, step):
        place = moment.phase, moment.place
        found[*place, seen[place]] = moment
        seen[place] += 1
    return found


def _sharded_items(found: list[ShardedMoment], law: Law) -> list[Item]:
    top = max(found, key=lambda moment: moment.bytes)
    source = _source(law)
    items = [
        Item("activations kept", round(top.kept), kept_formula(law), source),
        Item("gradients", round(top.gradients), "of finished units / shards, of the others whole"),
        Item("parameters, whole", round(top.whole), "units in use and the one that arrives", FSDP2_SOURCE),
        Item("gradients sent", round(top.exchanged), "reduce-scatter: a unit's gradients, its shard", FSDP2_SOURCE),
        Item(f"working memory: {top.place}", round(top.working), in_words(top.highest), source),
    ]
    return [item for item in items if item.bytes]


def _rank(workload: Workload) -> int:
    return workload.lora_rank if LEARNED_METHODS.get(workload.method) == "lora" else 0


def _items(found: Iterable[Moment], law: Law, shards: int, all_gradients: int | None) -> list[Item]:
    """The highest of the moments, as items; `all_gradients`: they are there from the micro-batch before."""

    def so_far(moment: Moment) -> float:
        return moment.gradients / shards if all_gradients is None else float(all_gradients)

    top = max(found, key=lambda moment: moment.kept + so_far(moment) + moment.working)
    source = _source(law)
    items = [
        Item("activations kept", round(top.kept), kept_formula(law), source),
        Item("gradients", round(so_far(top)), "trained parameters x bytes / shards, as far as they are there"),
        Item(f"working memory: {top.place}", round(top.working), top.formula, source),
    ]
    return [item for item in items if item.bytes]


def _source(law: Law) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in law.versions.items())
    like = "" if law.exact else f", a model built alike ({law.example})"
    return f"read off traced steps{like}: {versions}"


def _unpacked(shape: ModelShape, workload: Workload, weights: WeightSizes) -> list[Item]:
    stored = shape.quantisation.method if shape.quantisation else workload.quantise
    if stored not in UNPACKS:
        return []
    return [Item("a matrix, unpacked", weights.largest_dequantised, "largest matrix x bytes", "bitsandbytes")]


def stepwise_generation_phases(
    shape: ModelShape, workload: Workload, weights: WeightSizes, workspace: int
) -> tuple[Phase, ...] | None:
    """On one GPU; None where nothing was learned of this architecture."""
    setup = generation_setup(shape, workload)
    law = nearest_law(shape, setup) if setup else None
    if law is None:
        return None
    (whole,) = slices(len(shape.layers), 1)
    stored = slice_weight_items(weights, whole, shape)
    held = (*stored, Item("cuBLAS workspace", workspace, "one per handle"))
    prompt, last = workload.sequence_tokens, workload.sequence_tokens + max(workload.new_tokens, 1) - 1
    prefill = moments(law, shape, Step(workload.batch, prompt, prompt), ("prefill",))
    phases = [Phase("load", tuple(stored)), Phase("prefill", (*held, *_cached(prefill, law, shape, workload, prompt)))]
    if workload.new_tokens > 1:
        decode = moments(law, shape, Step(workload.batch, 1, last, 0, prompt), ("decode",))
        phases.append(Phase("last token", (*held, *_cached(decode, law, shape, workload, last))))
    unpacked = _unpacked(shape, workload, weights)
    return (phases[0], *(Phase(phase.name, (*phase.items, *unpacked)) for phase in phases[1:]))


def _cached(found: list[Moment], law: Law, shape: ModelShape, workload: Workload, tokens: int) -> list[Item]:
    """The cache by its own formula, and what the highest moment holds besides."""
    top = max(found, key=lambda moment: moment.bytes)
    compressed = any("rows latent cache" in region.get("begin", {}) for region in law.setup["regions"])
    cache = workload.batch * cache_bytes_per_sequence(shape, tokens, workload.dtype, latent=compressed)
    cache = min(cache, round(top.kept))
    kept = "compressed key and value" if compressed else "2 x KV heads x head size"
    formula = f"batch x layers x tokens x {kept} x bytes"
    rest = round(top.kept) - cache
    return [
        Item("KV cache", cache, formula),
        Item(f"working memory: {top.place}", rest + round(top.working), top.formula, _source(law)),
    ]
