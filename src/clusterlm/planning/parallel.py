"""Tensor and pipeline parallel with transformers' layers: the learned laws for what one rank holds and computes.

Tensor parallel as transformers 5 cuts a model (base_model_tp_plan), after Megatron-LM (arXiv 1909.08053; activations:
Korthikanti et al., arXiv 2205.05198, section 4): attention by heads, the MLP by its width, embedding and head by their
vocabulary; hidden states, norms and router are whole on every rank. Pipeline parallel as 1F1B (Narayanan et al.,
arXiv 2104.04473, section 2.2): the first of p stages holds p micro-batches at once, the last one.
Parameters of a rank are those of two real processes (tests/engines/test_tensor_parallel.py); no measurement of a peak
has been compared yet.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from clusterlm.model.shape import Attention, FeedForward, Layer, Linear, ModelShape
from clusterlm.planning.footprint import Item, Phase
from clusterlm.planning.laws import Law, Moment, kept_formula, moments, nearest_law
from clusterlm.planning.sizes import Step
from clusterlm.planning.stepwise import training_setup
from clusterlm.planning.training import held_items, training_states
from clusterlm.planning.weights import element_bytes, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

CUT_BY_COLUMNS = (
    "q_proj", "k_proj", "v_proj", "query_key_value", "gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc",
    "dense_h_to_4h",
)  # fmt: skip
CUT_BY_ROWS = ("o_proj", "dense", "down_proj", "fc2", "c_proj", "dense_4h_to_h")
TENSOR_PLANS = frozenset(
    [
        "apertus", "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm4_moe",
        "gpt_neox", "granite", "internlm3", "llama", "ministral3", "mistral", "mixtral", "nemotron", "olmo", "phi",
        "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
    ]
)  # fmt: skip
"""Architectures whose plan in transformers 5.23 cuts all of attention and MLP. Left out: those that have none, that cut
their experts alone, or that gather what they have cut."""
SHARED_EXPERTS_WHOLE = ("qwen2_moe",)
EMBEDDING_WHOLE = ("gpt_neox",)

TENSOR_SOURCE = "transformers 5.23 base_model_tp_plan; Korthikanti et al. 2022 (arXiv 2205.05198); not measured"
PIPELINE_SOURCE = "1F1B, Narayanan et al. 2021 (arXiv 2104.04473); not measured"


def is_learned(shape: ModelShape, workload: Workload) -> bool:
    """Whether a step of this training was learned, which its ranks' are made of."""
    return _law(shape, workload) is not None


def _law(shape: ModelShape, workload: Workload) -> Law | None:
    setup = training_setup(shape, workload)
    return nearest_law(shape, setup) if setup else None


@lru_cache(maxsize=64)
def rank_shape(shape: ModelShape, degree: int) -> ModelShape:
    """What one rank of a tensor-parallel group holds."""
    cut = {id(layer): _cut_layer(shape, layer, degree) for layer, _ in shape.counted_layers}
    table = shape.embedding_parameters
    return replace(
        shape,
        layers=tuple(cut[id(layer)] for layer in shape.layers),
        embedding_parameters=table if shape.architecture in EMBEDDING_WHOLE else _share(table, degree),
        head_parameters=_share(shape.head_parameters, degree),
    )


def _cut_layer(shape: ModelShape, layer: Layer, degree: int) -> Layer:
    mixer, mlp = layer.mixer, layer.feed_forward
    if isinstance(mixer, Attention):
        mixer = replace(mixer, heads=_share(mixer.heads, degree), kv_heads=_share(mixer.kv_heads, degree))
    shared_whole = shape.architecture in SHARED_EXPERTS_WHOLE
    narrower: FeedForward = replace(
        mlp,
        intermediate_size=_share(mlp.intermediate_size, degree),
        expert_size=_share(mlp.expert_size, degree),
        shared_size=mlp.shared_size if shared_whole else _share(mlp.shared_size, degree),
    )
    linears = (
        linear if shared_whole and linear.name.startswith("shared.") else _cut_linear(linear, degree)
        for linear in layer.linears
    )
    return replace(layer, mixer=mixer, feed_forward=narrower, linears=tuple(linears))


def _cut_linear(linear: Linear, degree: int) -> Linear:
    part, _, name = linear.name.partition(".")
    if part == "router":
        return linear
    if name in CUT_BY_COLUMNS:
        return replace(linear, outputs=_share(linear.outputs, degree))
    return replace(linear, inputs=_share(linear.inputs, degree)) if name in CUT_BY_ROWS else linear


def _share(elements: int, degree: int) -> int:
    return -(-elements // degree)


def parallel_training_phases(
    shape: ModelShape, workload: Workload, strategy: Strategy, workspace: int
) -> list[tuple[Phase, ...]]:
    """Of each rank that differs from the others: one of a tensor-parallel group, each stage of a pipeline."""
    law = _law(shape, workload)
    if law is None:
        return []
    if strategy.tensor_degree > 1:
        rank = rank_shape(shape, strategy.tensor_degree)
        return [_phases(law, rank, rank, workload, workspace, TENSOR_SOURCE)]
    stages = strategy.pipeline_degree
    found = []
    for stage in range(stages):
        first, last = stage == 0, stage == stages - 1
        computed = _computed_by_stage(shape, stage, stages)
        held = _held_by_stage(computed, stage, stages)
        in_flight = stages - stage if workload.accumulation else 1
        mine = _law_of_stage(law, first, last)
        found.append(_phases(mine, computed, held, workload, workspace, PIPELINE_SOURCE, in_flight, last=last))
    return found


@lru_cache(maxsize=64)
def _computed_by_stage(shape: ModelShape, stage: int, stages: int) -> ModelShape:
    count = len(shape.layers)
    layers = shape.layers[stage * count // stages : (stage + 1) * count // stages]
    return replace(shape, layers=layers, encoder_layers=())


@lru_cache(maxsize=64)
def _held_by_stage(stage_shape: ModelShape, stage: int, stages: int) -> ModelShape:
    """The first stage has the embedding, the last one norm and head; a tied table stands on both."""
    first, last = stage == 0, stage == stages - 1
    return replace(
        stage_shape,
        embedding_parameters=stage_shape.embedding_parameters if first or (last and stage_shape.tied) else 0,
        head_parameters=stage_shape.head_parameters if last else 0,
        final_norm_parameters=stage_shape.final_norm_parameters if last else 0,
        other_parameters=stage_shape.other_parameters if first else 0,
    )


@lru_cache(maxsize=64)
def _law_of_stage(law: Law, first: bool, last: bool) -> Law:
    return replace(law, setup={**law.setup, "regions": _regions_of_stage(law.setup["regions"], first=first, last=last)})


def _regions_of_stage(regions: list[dict[str, Any]], *, first: bool, last: bool) -> list[dict[str, Any]]:
    """What lies before the layers belongs to the first stage, what lies behind them to the last.

    In the forward pass the embedding stands in for the hidden states that a stage receives, which are as large.
    """
    found = []
    for phase in ("forward", "backward"):
        of_phase = [region for region in regions if region["phase"] == phase]
        layers = [index for index, region in enumerate(of_phase) if "layers" in region]
        for index, region in enumerate(of_phase):
            behind = index > layers[-1] if phase == "forward" else index < layers[0]
            before = index > layers[-1] and phase == "backward"
            if (last or not behind) and (first or not before):
                found.append(region)
    return found


def _phases(
    law: Law,
    computed: ModelShape,
    held: ModelShape,
    workload: Workload,
    workspace: int,
    source: str,
    in_flight: int = 1,
    *,
    last: bool = True,
) -> tuple[Phase, ...]:
    """`computed` has the sizes that the rank's operations run on, `held` the parameters that it has."""
    in_float32 = workload.autocast and workload.method == "full"
    stored = replace(workload, dtype="float32") if in_float32 else workload
    states = training_states(held, stored, weight_sizes(held, stored.dtype, None), Strategy())
    rank = workload.lora_rank if workload.method == "lora" else 0
    step = Step(workload.batch, workload.sequence_tokens, workload.sequence_tokens, rank)
    found = moments(law, computed, step, ("forward", "backward"))
    kept = next(one.kept for one in found if one.phase == "backward")
    carried = states.gradients if workload.accumulation else None
    waiting = Item(
        "activations of micro-batches in flight",
        round((in_flight - 1) * kept),
        f"({in_flight} in flight - 1) x what one forward pass leaves",
        source,
    )
    received = 0 if last else round(workload.tokens * computed.hidden_size * element_bytes(workload.dtype))
    arriving = Item("gradient from the next stage", received, "tokens x hidden x bytes", source)
    resting = held_items(states, workspace)
    gradients = Item("gradients", states.gradients, "trained parameters of the rank x bytes")
    temporaries = Item("optimizer's temporaries", states.step_temporaries, "one copy of the gradients (foreach)")
    forward, backward = ([one for one in found if one.phase == phase] for phase in ("forward", "backward"))
    return (
        Phase("load", tuple(resting[:1])),
        Phase("forward", (*resting, *_items(forward, law, carried, source), *_some(waiting))),
        Phase("backward", (*resting, *_items(backward, law, carried, source), *_some(waiting, arriving))),
        Phase("optimizer step", (*resting, gradients, temporaries)),
    )


def _items(found: list[Moment], law: Law, carried: int | None, source: str) -> tuple[Item, ...]:
    """The highest of the moments; `carried`: gradients of earlier micro-batches are there."""

    def so_far(moment: Moment) -> float:
        return moment.gradients if carried is None else float(carried)

    top = max(found, key=lambda moment: moment.kept + so_far(moment) + moment.working)
    return _some(
        Item("activations kept", round(top.kept), kept_formula(law), source),
        Item("gradients", round(so_far(top)), "trained parameters of the rank x bytes, as far as they are there"),
        Item(f"working memory: {top.place}", round(top.working), top.formula, source),
    )


def _some(*items: Item) -> tuple[Item, ...]:
    return tuple(item for item in items if item.bytes)
