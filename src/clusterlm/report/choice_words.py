"""Words of a plan on a cluster: ways, places, times and prices, as people say them."""

from __future__ import annotations

from clusterlm.cluster.profile import Billing
from clusterlm.planning.candidates import Candidate, Rejected
from clusterlm.planning.case import Case
from clusterlm.planning.duration import Duration
from clusterlm.planning.places import Place

WAYS = {
    "single": "single",
    "ddp": "DDP",
    "fsdp": "FSDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "tensor": "tensor",
    "pipeline": "pipeline",
}
METHODS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
TIME_UNITS = ((86400, 2 * 86400, "days"), (3600, 5400, "h"), (60, 90, "min"), (1, 0, "s"))
"""Seconds of each unit, and from how many seconds on it is used."""


def work(case: Case) -> str:
    """What the job does: LoRA, generating in nf4 with vLLM ..."""
    workload = case.workload
    if workload.trains:
        return METHODS[workload.method]
    doing = "embedding" if workload.task == "embed" else "generating"
    weights = f" with {workload.quantise} weights" if workload.quantise else ""
    engine = " by vLLM" if workload.software.engine == "vllm" else ""
    return doing + weights + engine


def way_of(one: Candidate) -> str:
    """'FSDP', 'ZeRO-2 + offload', '8 copies', '2 x pipeline 4': two copies, each over four GPUs."""
    wishes, strategy = one.wishes, one.case.strategy
    name = wishes.strategy or "single"
    if one.case.workload.trains:
        return WAYS[name] + _offloaded(wishes.offload)
    if name == "ddp":
        return f"{strategy.gpus:,} copies"
    degrees = [("tensor", strategy.tensor_degree), ("pipeline", strategy.pipeline_degree)]
    each = " + ".join(f"{cut} {degree}" for cut, degree in degrees if degree > 1) or WAYS[name]
    return f"{wishes.copies:,} x {each}" if (wishes.copies or 1) > 1 else each


def way_not_possible(one: Rejected, *, trains: bool) -> str:
    """Of several sizes at once: without the number of GPUs."""
    if one.way.strategy in ("tensor", "pipeline") or trains:
        return WAYS[one.way.strategy] + _offloaded(one.way.offload)
    return "a whole copy"


def _offloaded(offload: str | None) -> str:
    return "" if offload in (None, "none") else " + offload"


def way_and_place(one: Candidate, *, named: bool) -> str:
    """'FSDP on 1 node (8 GCDs)'; for one GPU alone 'on 1 GPU'."""
    way = "" if one.case.strategy.gpus == 1 else f"{way_of(one)} "
    return f"{way}on {where(one.place, one.case.strategy.gpus, named=named)}"


def where(place: Place, gpus: int, *, named: bool) -> str:
    """'1 node (8 GCDs)', '4 GCDs' of a node; `named`: with the kind of GPU."""
    nodes, each = place.nodes(gpus), place.node.gpus
    if nodes == 1 and (gpus < each or each == 1):
        return gpus_of(place, gpus, named=named)
    return f"{nodes_of(nodes)} ({gpus_of(place, gpus, named=named)})"


def gpus_of(place: Place, gpus: int, *, named: bool) -> str:
    return f"{gpus:,} x {place.gpu.key}" if named else f"{gpus:,} {units(place, gpus)}"


def units(place: Place, gpus: int) -> str:
    return place.node.unit if gpus == 1 else f"{place.node.unit}s"


def nodes_of(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes:,} nodes"


def about(seconds: float) -> str:
    """'45 s', '32 min', '5.2 h', '3.4 days': with the digits that a prediction has."""
    size, name = _time_unit(seconds)
    return f"{digits(seconds / size)} {name}"


def interval(duration: Duration) -> str:
    """'5.2 h (4.1-6.6)': in 8 of 10 runs."""
    size, name = _time_unit(duration.middle)
    low, middle, high = (digits(seconds / size) for seconds in (duration.low, duration.middle, duration.high))
    return f"{middle} {name} ({low}-{high})"


def _time_unit(seconds: float) -> tuple[int, str]:
    return next((size, name) for size, least, name in TIME_UNITS if seconds >= least)


def digits(amount: float) -> str:
    """Two digits that count, and all those before the point."""
    if amount >= 9.95:
        return f"{amount:,.0f}"
    if amount >= 0.995:
        return f"{amount:.1f}"
    return f"{amount:.2f}" if amount >= 0.0995 else f"{amount:.2g}"


def gpu_hours(one: Candidate) -> str:
    hours = digits(one.gpu_hours)
    return f"{hours} {one.place.node.unit}-hour{'' if hours == '1.0' else 's'}"


def billed(one: Candidate) -> str:
    """'576 SBU', '7.4 GPU-hours'; nothing where the site's price is not known."""
    billing, amount = one.place.cluster.billing, one.billing_units
    if billing is None or amount is None:
        return ""
    return f"{digits(amount)} {billing_unit(billing)}"


def billing_unit(billing: Billing) -> str:
    return f"{billing.unit}s" if billing.unit.endswith("hour") else billing.unit


def price(one: Candidate) -> str:
    """'15 GCD-hours (7.4 GPU-hours billed)', '3.0 GPU-hours (576 SBU)'; once where both are the same."""
    hours, units = gpu_hours(one), billed(one)
    word = " billed" if "hour" in units else ""
    return hours + (word if units == hours else f" ({units}{word})" if units else "")
