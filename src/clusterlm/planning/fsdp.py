"""FSDP2 as accelerate sets it up: which parameters are whole at which moment of a step, and how gradients are reduced.

From torch/distributed/fsdp/_fully_shard (2.13) and accelerate's fsdp2_prepare_model. Units are gathered and reduced
together: the embedding, each layer, and the final norm with the head; a tied embedding goes with the head; what is left
belongs to the root. The units of the head and of the root stay whole from their first use to their last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

from clusterlm.model.shape import Layer, Linear, ModelShape
from clusterlm.planning.adapters import adapted_of_layer
from clusterlm.planning.laws import Moment
from clusterlm.planning.training import States, training_states
from clusterlm.planning.weights import element_bytes, weight_sizes
from clusterlm.planning.workload import Workload
from clusterlm.strategy import Strategy

FSDP2_SOURCE = "torch/distributed/fsdp/_fully_shard, accelerate fsdp2_prepare_model"
INPUTS_FIRST = ("gpt2", "openai-gpt")
"""Their matrices are transformers' Conv1D, whose first dimension is the input's."""


@dataclass(frozen=True)
class Precision:
    """Bytes of an element: as it is stored between steps, and as it is gathered and its gradient is reduced."""

    stored: float
    computed: float


class Unit(NamedTuple):
    """Bytes of one rank for parameters that are gathered together, each padded to equal shards along its first axis."""

    stored: float = 0.0
    whole: float = 0.0
    cast: float = 0.0
    """The rank's shard in the type that is gathered, where it is stored in another."""
    whole_gradients: float = 0.0
    """As the backward pass computes them, not padded."""
    reduced: float = 0.0
    """Gradients as they are sent, whole."""
    received: float = 0.0
    """The rank's shard of them, in the type that is sent."""
    gradients: float = 0.0
    """The rank's shard of them, as it stays: in the type of the parameters."""
    trained: float = 0.0
    """Elements of the rank's shard that are trained."""
    lingering: float = 0.0
    """Whole gradient of the last parameter: foreach_reduce's loop variable keeps it while the others are let go."""


def together(units: Iterable[Unit]) -> Unit:
    units = tuple(units)
    lingering = next((one.lingering for one in reversed(units) if one.lingering), 0.0)
    return Unit(*map(sum, zip(*units, strict=True)))._replace(lingering=lingering)


@dataclass(frozen=True)
class Units:
    """`embedding` is empty where it is tied to the head, and so belongs to the tail."""

    root: Unit
    embedding: Unit
    layers: tuple[Unit, ...]
    tail: Unit
    tied: bool
    norm_in_tail: bool

    @cached_property
    def total(self) -> Unit:
        return together((self.root, *self.layers, self.embedding, self.tail))


class ShardedMoment(NamedTuple):
    """A Moment of one rank: `gradients` reduced as far as they are, and what comes with that."""

    phase: str
    place: str
    kept: float
    gradients: float
    working: float
    highest: dict[str, float]
    whole: float
    """Gathered parameters."""
    exchanged: float
    """Buffers of the reduce-scatter."""

    @property
    def bytes(self) -> float:
        return self.kept + self.gradients + self.working + self.whole + self.exchanged


def units_of(shape: ModelShape, workload: Workload, ranks: int) -> Units:
    """Of a model that is not quantised."""
    full = workload.method == "full"
    computed = element_bytes(workload.dtype)
    base = Precision(4.0 if workload.autocast and full else computed, computed)
    adapter = element_bytes(workload.adapter_dtype)
    adapters = Precision(adapter, computed if workload.autocast else adapter)
    table = _unit((shape.vocabulary_size, shape.hidden_size), base, ranks, trained=full)
    positions = shape.embedding_parameters - shape.vocabulary_size * shape.hidden_size
    left = [_unit((shape.other_parameters, 1), base, ranks, trained=full)]
    if shape.context_tokens and positions > 0:
        left.append(_unit((shape.context_tokens, positions // shape.context_tokens), base, ranks, trained=full))
    norm = _unit((shape.final_norm_parameters, 1), base, ranks, trained=full)
    head = _unit((shape.head_parameters // shape.hidden_size, shape.hidden_size), base, ranks, trained=full)
    of_layer = {
        id(layer): _layer_unit(shape, layer, workload, (base, adapters), ranks) for layer, _ in shape.counted_layers
    }
    # accelerate looks for the norm among the children of the base model, which it does not find behind PEFT's wrapper.
    return Units(
        root=together(left if full else (*left, norm)),
        embedding=Unit() if shape.tied else table,
        layers=tuple(of_layer[id(layer)] for layer in shape.layers),
        tail=together((norm if full else Unit(), table if shape.tied else head)),
        tied=shape.tied,
        norm_in_tail=full,
    )


def fsdp_states(shape: ModelShape, workload: Workload, strategy: Strategy, units: Units) -> States:
    """As training_states, with what each shard is padded by: a matrix of 16 rows takes one on each of 64 ranks."""
    found = training_states(shape, workload, weight_sizes(shape, workload.dtype, None), strategy)
    total, full = units.total, workload.method == "full"
    padded = total.trained * strategy.model_shards / max(found.trained, 1)
    adapters = 0 if full else round(total.gradients)
    return replace(
        found,
        weights=round(total.stored) - adapters if found.weights else 0,
        adapters=adapters if found.adapters else 0,
        optimizer=round(found.optimizer * padded),
        gradients=round(total.gradients) if found.gradients else 0,
        step_temporaries=round(found.step_temporaries * padded),
    )


def _layer_unit(
    shape: ModelShape, layer: Layer, workload: Workload, precisions: tuple[Precision, Precision], ranks: int
) -> Unit:
    base, adapter = precisions
    full = workload.method == "full"
    vectors = layer.norm_parameters + layer.other_parameters
    tensors = [(vectors, 1), *(tensor for linear in layer.linears for tensor in _tensors(shape, linear))]
    units = [_unit(tensor, base, ranks, trained=full) for tensor in tensors]
    for adapted in () if full else adapted_of_layer(shape, layer, workload):
        # PEFT lays the experts' adapters side by side in one matrix.
        rank = adapted.ranks * workload.lora_rank * adapted.linear.copies
        for tensor in ((rank, adapted.linear.inputs), (adapted.linear.outputs, rank)):
            units.append(_unit(tensor, adapter, ranks, trained=True))
    # The last parameter of a layer is one of its vectors.
    return together(units)._replace(lingering=0.0)


def _tensors(shape: ModelShape, linear: Linear) -> Iterator[tuple[int, int]]:
    """First axis, and elements behind each place on it; experts are fused, one place for each."""
    biases = linear.parameters - linear.weights
    if linear.copies > 1:
        yield linear.copies, linear.inputs * linear.outputs
        yield linear.copies, biases // linear.copies
    elif shape.architecture in INPUTS_FIRST:
        yield linear.inputs, linear.outputs
        yield biases, 1
    else:
        yield linear.outputs, linear.inputs
        yield biases, 1


def _unit(tensor: tuple[int, int], precision: Precision, ranks: int, *, trained: bool) -> Unit:
    rows, elements = tensor
    shard = -(-rows // ranks) * elements
    mine = shard if trained else 0
    gradients = rows * elements * precision.computed if trained else 0.0
    return Unit(
        stored=shard * precision.stored,
        whole=shard * ranks * precision.computed,
        cast=shard * precision.computed if precision.computed != precision.stored else 0.0,
        whole_gradients=gradients,
        reduced=mine * ranks * precision.computed,
        received=mine * precision.computed,
        gradients=mine * precision.stored,
        trained=mine,
        lingering=gradients,
    )


def sharded_moments(found: Sequence[Moment], units: Units, *, carried: bool) -> list[ShardedMoment]:
    """The moments of one GPU's step as a rank goes through them, and those in between: units gathered and reduced.

    `carried`: gradients of earlier micro-batches are there, whole, since accelerate's no_sync reduces none.
    """
    walk = _Walk(units, found, carried)
    return [*walk.forward(), *walk.backward()]


class _Walk:
    """What is gathered and reduced so far, moment by moment."""

    def __init__(self, units: Units, found: Sequence[Moment], carried: bool) -> None:
        self.units = units
        self.parts = {phase: [one for one in found if one.phase == phase] for phase in ("forward", "backward")}
        self.all_gradients = units.total.whole_gradients
        self.carried = carried
        self.whole = 0.0
        self.arriving = 0.0
        """An all-gather's output, from which the parameters are copied."""
        self.sent = 0.0
        """A reduce-scatter's input, kept until the next one."""
        self.reduced_whole = 0.0
        """Whole gradients that have been reduced, and what of them stays here."""
        self.reduced = 0.0

    def forward(self) -> Iterator[ShardedMoment]:
        parts, units = self.parts["forward"], self.units
        tail_at = "final norm" if units.norm_in_tail else "head"
        waiting = [] if units.tied else [units.tail]
        for moment in parts:
            if moment.place == "embedding":
                yield from self._gather(moment, units.root)
                yield from self._gather(moment, units.tail if units.tied else units.embedding)
            elif moment.place == "layer":
                yield from self._gather(moment, units.layers[moment.layer])
            elif moment.place in (tail_at, "head") and waiting:
                yield from self._gather(moment, waiting.pop())
            yield self._at(moment)
            if moment.place == "embedding":
                self.whole -= units.embedding.whole
            elif moment.place == "layer":
                self.whole -= units.layers[moment.layer].whole
        self.arriving = 0.0

    def _gather(self, moment: Moment, unit: Unit) -> Iterator[ShardedMoment]:
        """The output of the gathering before is let go only after this one's is copied."""
        if not unit.whole:
            return
        before, self.arriving = self.arriving, unit.whole
        self.whole += unit.whole
        yield self._between(moment, "gathering", more=before)

    def backward(self) -> Iterator[ShardedMoment]:
        parts, units = self.parts["backward"], self.units
        for moment, after in zip_longest(parts, parts[1:]):
            layer_after = after if after and after.place == "layer" else None
            yield self._at(moment)
            if moment.place == "loss":
                yield from self._prefetch(after or moment, units.layers[-1])
            if moment.place == "layer":
                unit = units.layers[moment.layer]
                self._pass_by(moment.layer - layer_after.layer - 1 if layer_after else 0, unit)
                yield from self._reduce(after or moment, unit, unit.whole_gradients)
            elif not units.tied and (layer_after if units.norm_in_tail else moment.place == "head"):
                yield from self._reduce(after or moment, units.tail, self._pending(after or moment))
            if layer_after:
                number = layer_after.layer
                following = units.layers[number - 1] if number else units.embedding
                yield from self._open(layer_after, units.layers[number], following)
            elif after and after.place == "embedding" and not units.tied:
                yield from self._open(after, units.embedding, Unit())
        yield from self._end(parts[-1])

    def _pass_by(self, layers: int, unit: Unit) -> None:
        """Those that are not walked through."""
        self.reduced_whole += layers * unit.whole_gradients
        self.reduced += layers * unit.gradients

    def _end(self, last: Moment) -> Iterator[ShardedMoment]:
        """Units whose inputs need no gradient are reduced when the backward pass has ended."""
        end = last._replace(kept=0.0, gradients=self.all_gradients, working=0.0)
        for unit in (self.units.root, self.units.tail if self.units.tied else self.units.embedding):
            yield from self._reduce(end, unit, min(unit.whole_gradients, self._pending(end)))

    def _open(self, moment: Moment, unit: Unit, following: Unit) -> Iterator[ShardedMoment]:
        """The unit is copied from what was gathered, and the following one's gathering begins."""
        self.whole += unit.whole
        self.arriving = unit.whole
        yield self._between(moment, "gathering")
        yield from self._prefetch(moment, following)

    def _prefetch(self, moment: Moment, unit: Unit) -> Iterator[ShardedMoment]:
        self.arriving = unit.whole
        yield self._between(moment, "gathering", more=unit.cast)

    def _reduce(self, moment: Moment, unit: Unit, own: float) -> Iterator[ShardedMoment]:
        """The unit's parameters go; its gradients are copied into one tensor, which is sent."""
        self.whole -= unit.whole
        self.sent = 0.0
        if not unit.reduced:
            return
        self.sent = unit.reduced
        yield self._between(moment, "reducing gradients")
        self.reduced_whole += own
        kept_in_another_type = unit.gradients if unit.gradients != unit.received else 0.0
        yield self._between(
            moment, "reducing gradients", received=unit.received + kept_in_another_type + unit.lingering
        )
        self.reduced += unit.gradients

    def _pending(self, moment: Moment) -> float:
        there = self.all_gradients if self.carried else moment.gradients
        return max(there - self.reduced_whole, 0.0)

    def _at(self, moment: Moment) -> ShardedMoment:
        return ShardedMoment(
            moment.phase, moment.place, moment.kept, self.reduced + self._pending(moment), moment.working,
            moment.highest, self.whole + self.arriving, self.sent,
        )  # fmt: skip

    def _between(self, moment: Moment, place: str, *, more: float = 0.0, received: float = 0.0) -> ShardedMoment:
        """As the moment begins, where nothing is computed yet."""
        return ShardedMoment(
            moment.phase, f"{place}, {moment.place}", moment.kept, self.reduced + self._pending(moment), 0.0,
            {}, self.whole + self.arriving + more, self.sent + received,
        )  # fmt: skip
