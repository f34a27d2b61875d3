"""Work: the floating-point operations and the bytes of one pass through a model, counted from its shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from clusterlm.model.shape import Attention, Linear, ModelShape, Recurrent
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.weights import Scheme, element_bytes, linear_bytes, scheme_of, weight_sizes
from clusterlm.planning.workload import Method, Software, Workload

MOST_KEPT = 512
"""Shapes whose work is remembered at a time: by identity, which is how they hash."""


@dataclass(frozen=True)
class Mixture:
    """Equal expert layers: of `experts`, each token visits `active`."""

    layers: int
    experts: int
    active: int
    expert_weights: float
    """Elements of one expert of one layer."""
    expert_bytes: float

    def touched(self, tokens: float) -> float:
        """Experts of one layer that at least one of so many tokens visits, if each is as likely as any other."""
        return self.experts * float(1 - (1 - self.active / self.experts) ** max(tokens, 1))


@dataclass(frozen=True)
class Reads:
    """Keys and values of equal layers: elements that one token adds, the width of its queries, and how far it looks."""

    layers: int
    elements: int
    query_width: int
    groups: float
    """Query heads that share one key and value."""
    window: int | None

    def seen(self, tokens: float) -> float:
        """Tokens of the past that a token at this position attends to."""
        return min(tokens, self.window) if self.window else tokens


@dataclass(frozen=True)
class Work:
    """Of one model in one type of weights."""

    layers: int
    hidden_size: int
    widest: int
    """Width of the MLP that one token passes through, active experts together."""
    vocabulary_size: int
    dense_weights: float
    """Elements of all matrices that every token passes through, the head left out."""
    head_weights: float
    dense_bytes: float
    """All that every step reads: matrices, norms and the head, but no table of tokens, and no experts."""
    all_bytes: float
    mixtures: tuple[Mixture, ...]
    reads: tuple[Reads, ...]
    matrices: int
    """Of all layers, without experts."""
    recurrent_bytes: float
    """State of one sequence in all recurrent layers."""
    stored: str
    """How the matrices are stored: "" as they are, or the quantiser's name and bits."""

    @cached_property
    def active_weights(self) -> float:
        return self.dense_weights + sum(one.layers * one.active * one.expert_weights for one in self.mixtures)

    @cached_property
    def expert_visits(self) -> int:
        """Experts of all layers: what an engine visits that loops over them one by one."""
        return sum(one.layers * one.experts for one in self.mixtures)

    def forward_flops(self, tokens: float) -> float:
        """Matrix products of the blocks; two operations for each element and token."""
        return 2 * self.active_weights * tokens

    def head_flops(self, tokens: float) -> float:
        return 2 * self.head_weights * tokens

    def attention_flops(self, sequence_tokens: float) -> float:
        """Of one causal sequence: products of queries with keys, and of weights with values."""
        total = 0.0
        for one in self.reads:
            window = one.seen(sequence_tokens)
            pairs = sequence_tokens * window - window * window / 2
            total += one.layers * 2 * one.query_width * pairs
        return total

    def weight_bytes(self, tokens: float) -> float:
        """Read once in a step of so many tokens: of mixtures, the experts that they visit."""
        if not self.mixtures:
            return self.dense_bytes
        visited = sum(one.layers * one.touched(tokens) * one.expert_bytes for one in self.mixtures)
        return self.dense_bytes + visited

    def cache_elements(self, tokens: float) -> float:
        """Keys and values of one sequence that its next token attends to."""
        return sum(one.layers * one.elements * one.seen(tokens) for one in self.reads)

    def expanded_elements(self, tokens: float) -> float:
        """The same written out for each query head."""
        return sum(one.layers * one.elements * one.seen(tokens) * one.groups for one in self.reads)


def work_of(shape: ModelShape, workload: Workload) -> Work:
    return _count(shape, workload.dtype, workload.quantise)


def trained_of(shape: ModelShape, workload: Workload) -> int:
    if workload.method == "full":
        return shape.parameters
    software = workload.software
    grouped = software.version >= (5,)
    return _trained(shape, workload.method, workload.lora_rank, workload.lora_targets, software.engine, grouped)


def learning_flops(shape: ModelShape, workload: Workload, lengths: Iterable[int]) -> float:
    """What it takes to learn sequences of so many tokens, as MFU counts it: what is computed twice counts once.

    Forward, and backward by the inputs, and by the weights where these learn: 6 operations for each weight and token,
    beside an adapter 4.
    """
    each = list(lengths)
    tokens, work = sum(each), work_of(shape, workload)
    full = workload.method == "full"
    products = (3 if full else 2) * (work.forward_flops(tokens) + work.head_flops(tokens))
    adapters = 0 if full else 3 * 2 * trained_of(shape, workload) * tokens
    attention = 3 * sum(work.attention_flops(length) for length in each)
    return products + adapters + attention


@lru_cache(MOST_KEPT)
def _trained(shape: ModelShape, method: Method, rank: int, targets: tuple[str, ...], engine: str, grouped: bool) -> int:
    """By what it depends on: to hash a whole workload costs more than the rest of a prediction."""
    software = Software(engine=engine, version=(5,) if grouped else (4,))
    return trained_parameters(shape, Workload(method=method, lora_rank=rank, lora_targets=targets, software=software))


def stored_as(shape: ModelShape, quantise: str | None) -> str:
    """`gptq-int4`, `awq-int4`, `nf4`, `fp8` ...: by the checkpoint, or else as asked for while loading."""
    stored = shape.quantisation
    if stored is None:
        return (quantise or "").removesuffix("-block")
    if stored.method in ("gptq", "awq"):
        return f"{stored.method}-int{stored.bits}"
    if stored.method == "compressed-int":
        return f"w{stored.bits}"
    return stored.method


@lru_cache(MOST_KEPT)
def _count(shape: ModelShape, dtype: str, quantise: str | None) -> Work:
    scheme, size = scheme_of(shape, quantise), element_bytes(dtype)
    dense = 0.0
    widest = 0
    for layer, count in shape.counted_all_layers:
        dense += count * sum(one.weights for one in layer.linears if one.copies == 1)
        mlp = layer.feed_forward
        widest = max(widest, mlp.intermediate_size + mlp.active_experts * mlp.expert_size + mlp.shared_size)
    mixtures = _mixtures(shape, size, scheme)
    all_bytes = float(weight_sizes(shape, dtype, scheme).total)
    of_experts = sum(one.layers * one.experts * one.expert_bytes for one in mixtures)
    # A tied table is read whole as the head; an untied one by rows.
    unread = 0.0 if shape.tied else shape.embedding_parameters * size
    head = shape.vocabulary_size * shape.hidden_size if shape.tied or shape.head_parameters else 0
    return Work(
        layers=sum(count for _, count in shape.counted_all_layers),
        hidden_size=shape.hidden_size,
        widest=widest,
        vocabulary_size=shape.vocabulary_size,
        dense_weights=dense,
        head_weights=head,
        dense_bytes=max(all_bytes - of_experts - unread, 1.0),
        all_bytes=all_bytes,
        mixtures=mixtures,
        reads=_reads(shape),
        matrices=sum(
            count * sum(one.copies == 1 for one in layer.linears) for layer, count in shape.counted_all_layers
        ),
        recurrent_bytes=size
        * sum(
            count * layer.mixer.state_elements
            for layer, count in shape.counted_layers
            if isinstance(layer.mixer, Recurrent)
        ),
        stored=stored_as(shape, quantise),
    )


def _mixtures(shape: ModelShape, size: float, scheme: Scheme | None) -> tuple[Mixture, ...]:
    found = []
    for layer, count in shape.counted_all_layers:
        experts: list[Linear] = [one for one in layer.linears if one.copies > 1]
        if experts and layer.feed_forward.experts:
            copies = layer.feed_forward.experts
            weights = sum(one.weights for one in experts) / copies
            stored = sum(linear_bytes(one, size, scheme) for one in experts) / copies
            found.append(Mixture(count, copies, layer.feed_forward.active_experts or 1, weights, stored))
    return tuple(found)


def _reads(shape: ModelShape) -> tuple[Reads, ...]:
    found = []
    for layer, count in shape.counted_all_layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            width = mixer.heads * (mixer.head_size + mixer.value_size)
            groups = mixer.heads / max(mixer.kv_heads, 1)
            found.append(Reads(count, mixer.cache_elements_per_token, width, groups, mixer.window))
    return tuple(found)
