"""Every item of a footprint with its formula, the numbers of this case in it, and its source."""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Sequence

from clusterlm.model.shape import Attention, ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.case import Case
from clusterlm.planning.footprint import Item
from clusterlm.planning.verdict import Verdict
from clusterlm.planning.weights import element_bytes

TOLERANCE = 0.0005
"""A formula with numbers is shown where it gives the item within this share: no word in it was misunderstood."""
MOST_READINGS = 200

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def explained(verdict: Verdict) -> str:
    """Each phase's items, each item once; then host, disk, network and the rules."""
    found, case = verdict.footprint, verdict.case
    shown: set[Item] = set()
    blocks = []
    for phase in found.phases:
        fresh = [item for item in phase.items if item.bytes and item not in shown]
        shown |= set(fresh)
        blocks.append(_block(f"{phase.name}: {phase.bytes:,} B", fresh, case))
    blocks.append(_block("beside torch", found.runtime, case))
    blocks.append(_block("host, disk, network", (*found.host_per_node, *found.disk, *found.network), case))
    blocks.append(_block("rules of thumb", found.rules_of_thumb, case))
    return "HOW IT IS COUNTED\n" + "\n".join(block for block in blocks if block)


def _block(title: str, items: Sequence[Item], case: Case) -> str:
    return "\n".join([f"  {title}", *(line for item in items for line in _lines(item, case))]) if items else ""


def _lines(item: Item, case: Case) -> list[str]:
    lines = [f"    {item.name} = {item.bytes:,} B"]
    if item.formula:
        lines.append(f"      = {item.formula}")
    if numbers := with_numbers(item, case):
        lines.append(f"      = {numbers}")
    if item.source:
        lines.append(f"      source: {item.source}")
    return lines


def with_numbers(item: Item, case: Case) -> str | None:
    """The item's formula with this case's numbers; None where they do not give its bytes."""
    values = _values(case)
    used = [word for word in sorted(values, key=len, reverse=True) if re.search(_whole(word), item.formula)]
    readings = itertools.product(*(values[word] for word in used))
    for reading in itertools.islice(readings, MOST_READINGS):
        text = item.formula
        for word, value in zip(used, reading, strict=True):
            text = re.sub(_whole(word), f"{round(value):,}" if value == round(value) else f"{value:g}", text)
        amount = evaluated(text)
        if amount is not None and text != item.formula and abs(amount - item.bytes) <= TOLERANCE * item.bytes:
            return re.sub(r"(?<=\d) (?=\d)", " x ", text)
    return None


def _whole(word: str) -> str:
    return rf"(?<![\w.]){re.escape(word)}(?!\w)"


def _values(case: Case) -> dict[str, list[float]]:
    """What the words of the formulas stand for; several readings where phases differ."""
    shape, workload, strategy = case.shape, case.workload, case.strategy
    last = workload.sequence_tokens + workload.new_tokens
    attention = [layer.mixer for layer in shape.layers if isinstance(layer.mixer, Attention)]
    widths = {layer.feed_forward.intermediate_size for layer in shape.layers if layer.feed_forward.intermediate_size}
    trained = trained_parameters(shape, workload)
    sizes = [element_bytes(workload.dtype), 4.0]
    found: dict[str, list[float]] = {
        "tokens": [workload.tokens, last, workload.sequence_tokens, workload.sequence_tokens + 1],
        "batch": [workload.batch],
        "layers": [len(shape.layers)],
        "hidden": [shape.hidden_size],
        "vocabulary": [shape.vocabulary_size],
        "intermediate": sorted(widths, reverse=True),
        "KV heads": sorted({one.kv_heads for one in attention}),
        "head size": sorted({one.head_size for one in attention}),
        "heads": sorted({one.heads for one in attention}),
        "KV": sorted({one.kv_heads * one.head_size for one in attention}),
        "parameters": [shape.parameters],
        "trained parameters": [trained],
        "trained": [trained],
        "bytes": sizes,
        "shards": sorted({strategy.model_shards, strategy.optimizer_shards, strategy.gradient_shards}),
        "stages": [strategy.pipeline_degree],
        "tensor degree": [strategy.tensor_degree],
        "rank": [workload.lora_rank],
        "context": [shape.context_tokens] if shape.context_tokens else [],
        "one": [1],
        "rows": [workload.batch],
        "seen": [last, workload.sequence_tokens],
        **_matrix_widths(shape),
        "max_num_seqs": [workload.max_sequences],
        "max_num_batched_tokens": [workload.max_batched_tokens],
    }
    return {word: values for word, values in found.items() if values}


def _matrix_widths(shape: ModelShape) -> dict[str, list[float]]:
    """Outputs of each matrix, by the end of its name; several where layers differ."""
    found: dict[str, set[float]] = {}
    for linear in {linear for layer in set(shape.layers) for linear in layer.linears}:
        found.setdefault(linear.name.split(".", 1)[-1], set()).add(linear.outputs)
    return {name: sorted(widths) for name, widths in found.items()}


def evaluated(formula: str) -> float | None:
    """The value of sums and products such as `2 x (8,192 + 3) x 4 B`; None for anything with a word in it."""
    text = re.sub(r"\([^()]*[a-z]{2}[^()]*\)|(?<=\d),(?=\d{3})|\bB\b", "", formula)
    text = re.sub(r"(?<=[\d)\s])x(?=[\d(\s])", "*", text)
    text = re.sub(r"(?<=\d) (?=[\d(])", " * ", text.split(" (")[0] if text.count("(") != text.count(")") else text)
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("not arithmetic")
