"""A plan on a cluster as text: what is best and why, the other ways with their time and price, and what cannot be."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from clusterlm.planning.amount import Amount
from clusterlm.planning.candidates import Candidate
from clusterlm.planning.case import Case
from clusterlm.planning.planner import EQUAL, Plan, pinned, priced
from clusterlm.planning.room import available_bytes
from clusterlm.planning.verdict import Verdict
from clusterlm.planning.wishes import PREFERENCES
from clusterlm.report.choice_flags import as_flag
from clusterlm.report.choice_rejected import what_cannot_be
from clusterlm.report.choice_table import table_of_ways
from clusterlm.report.choice_words import (
    about,
    billing_unit,
    interval,
    price,
    units,
    way_and_place,
    way_not_possible,
    where,
    work,
)
from clusterlm.report.explain import explained
from clusterlm.report.plan import asked_rows, counted, gib, items_of_peak, memory_tables, model_line, parts_line
from clusterlm.report.table import aligned, bar

WIDTH = 110
SEEN = 0.005
"""Parts of a step below this share are left out."""


def choice_headline(plan: Plan) -> str:
    """One line: the best way with its memory, time and price; or what comes nearest, and by how much it fails."""
    best = plan.best
    if best is None:
        return _nothing_fits(plan)
    case, gpus = best.case, best.case.strategy.gpus
    fits = "Fits, but by less than the 5 % that a prediction may be wrong" if best.tight else "Fits"
    way = way_and_place(best, named=several_kinds(plan))
    each = " each" if gpus > 1 else ""
    needs = f"{gib(best.needed)} of {gib(available_bytes(case))} GiB{each}"
    time = f"about {about(best.duration.middle)}" + (f" for {amount(best.amount)}" if best.amount.assumed else "")
    return f"{fits}: {work(case)}, {way}, {needs}, {time}, {price(best)}"


def _nothing_fits(plan: Plan) -> str:
    closest = plan.closest
    assert closest is not None and closest.case is not None
    gpus = closest.case.strategy.gpus
    way = f"{way_not_possible(closest, trains=closest.case.workload.trains)} " if gpus > 1 else ""
    place = where(closest.place, gpus, named=several_kinds(plan))
    ram = " of RAM on each node" if closest.on_host else ""
    lacks = f"{gib(closest.needed)} of {gib(closest.available)} GiB{ram}"
    text = f"Does not fit on {plan.cluster.name}: the closest is {way}on {place}: {lacks},"
    text += f" {gib(closest.needed - closest.available)} GiB too much"
    free = plan.unpinned
    if free:
        way = way_and_place(free, named=several_kinds(plan))
        return f"{text}; without {_choices(plan)} it fits: {way}, {gib(free.needed)} GiB"
    if not plan.remedies:
        return f"{text}. Nothing that was tried fits."
    first = plan.remedies[0]
    way = way_and_place(first.candidate, named=several_kinds(plan))
    return f"{text}; it would fit with {first.words}: {gib(first.candidate.needed)} GiB, {way}"


def several_kinds(plan: Plan) -> bool:
    """Whether a number of GPUs must say which."""
    return len({node.gpu for node in plan.cluster.nodes.values()}) > 1


def amount(work_of: Amount) -> str:
    """'an assumed 10,000,000 tokens', '250 records'."""
    count = f"{work_of.tokens:,} tokens" if work_of.records is None else f"{work_of.records:,} records"
    return f"an assumed {count}" if work_of.assumed else count


def choice_text(plan: Plan, verdict: Verdict, *, explain: bool, whole: bool) -> str:
    """All between the headline and the request; `verdict`: of the best, or of what comes nearest."""
    parts = [aligned(_asked(plan, verdict))]
    if plan.best:
        parts += [table_of_ways(plan, whole=whole), _cost_of_pins(plan)]
    else:
        parts += [_remedies(plan)]
    parts += memory_tables(verdict) if explain else [items_of_peak(verdict), _beside_the_gpu(plan, verdict)]
    if plan.best:
        parts.append(_time(plan.best))
    parts.append(what_cannot_be(plan, named=several_kinds(plan), whole=whole))
    if explain:
        parts.append(explained(verdict))
    return "\n\n".join(part for part in parts if part)


def _asked(plan: Plan, verdict: Verdict) -> list[tuple[str, str]]:
    case, cluster = verdict.case, plan.cluster
    unit = (plan.best or plan.closest or plan.candidates[0]).place.node.unit
    rows = [("model", model_line(case.shape)), ("", parts_line(case.shape)), *asked_rows(case, unit)]
    if plan.best:
        rows.append(("work", _work_to_do(plan.best)))
    site = f", {cluster.site}" if cluster.site else ""
    others = " or ".join(name for name in PREFERENCES if name != plan.prefer)
    rows.append(("cluster", f"{cluster.title}{site}"))
    if len(plan.candidates) > 1:
        rows.append(("wanted", f"{_preference(plan)}; else --prefer {others}"))
    return rows


def _work_to_do(best: Candidate) -> str:
    amount, wishes = best.amount, best.wishes
    tokens = counted(amount.tokens, "token")
    if best.case.workload.task == "generate":
        text = f"{counted(amount.records or 0, 'prompt')}, {counted(amount.tokens, 'new token')}"
    elif amount.records is not None:
        text = f"{counted(amount.records, 'text')}, {tokens}"
    elif wishes.epochs and wishes.epochs > 1:
        text = f"{counted(amount.tokens // wishes.epochs, 'token')} x {wishes.epochs} epochs = {tokens}"
    else:
        text = tokens
    return f"{text} (assumed: {amount.flag} sets it)" if amount.assumed else text


def _preference(plan: Plan) -> str:
    unit = plan.candidates[0].place.node.unit
    billing = plan.cluster.billing
    price_of = billing_unit(billing) if billing and priced(plan.candidates) else f"{unit}-hours"
    means = {
        "cheapest": f"fewest {price_of}",
        "fastest": "least time",
        "soonest": "fewest nodes, short jobs first, as no queue was asked",
    }
    return f"{plan.prefer}, {means[plan.prefer]}"


def _remedies(plan: Plan) -> str:
    rows = [
        (
            remedy.words,
            gib(remedy.candidate.needed),
            way_and_place(remedy.candidate, named=several_kinds(plan)),
            remedy.flags,
        )
        for remedy in plan.remedies
    ]
    return aligned([("IT WOULD FIT WITH", "GIB", "", "FLAGS"), *rows], numbers=[1]) if rows else ""


def _beside_the_gpu(plan: Plan, verdict: Verdict) -> str:
    found, best = verdict.footprint, plan.best
    room = best.place.host_bytes(best.case.strategy.gpus) if best else None
    rows = [("BESIDE THE GPU", "GIB", "")]
    for name, items, limit in (("RAM of a node", found.host_per_node, room), ("disk", found.disk, None)):
        if items:
            parts = ", ".join(f"{item.name} {gib(item.bytes)}" for item in items)
            of = f"of {gib(limit)}: " if limit else ""
            rows.append((name, gib(sum(item.bytes for item in items)), of + parts))
    rows += [(f"network: {item.name}", gib(item.bytes), "") for item in found.network if "step" in item.name]
    return aligned(rows, numbers=[1])


def _time(best: Candidate) -> str:
    """A full bar is the whole step."""
    duration, pace = best.duration, best.duration.pace
    seconds = pace.step_seconds
    rows = [("TIME", "", ""), ("loading, each job" if duration.jobs > 1 else "loading", about(duration.load), "")]
    rows.append((_step_name(best.case), about(seconds), ""))
    rows += [(f"  {name}", about(part), bar(part, seconds)) for name, part in pace.parts if part > SEEN * seconds]
    speed = f"{pace.tokens_per_second:,.0f} {_tokens_name(best.case)} a second"
    rows.append(("in all", about(duration.middle), speed))
    held = f"8 of 10 such predictions hold within a factor of {pace.spread:.2g}: {interval(duration)}."
    return f"{aligned(rows, numbers=[1])}\n{held}\nFrom: {pace.basis}."


def _step_name(case: Case) -> str:
    if case.workload.trains:
        return "a step"
    return "a forward pass" if case.workload.task == "embed" else "a batch"


def _tokens_name(case: Case) -> str:
    return "new tokens" if case.workload.task == "generate" else "tokens"


def _cost_of_pins(plan: Plan) -> str:
    """What the user's own choices cost, where the planner would have chosen better; and GPUs that are paid in vain."""
    lines = []
    best, free = plan.best, plan.unpinned
    if best and best.idle_gpus:
        unit = units(best.place, best.idle_gpus)
        text = f"{best.idle_gpus:,} {unit} of the {best.allocated_gpus:,} that are paid for stay idle: "
        lines.append(f"{text}{best.place.partition_name} gives whole nodes of {best.place.node.gpus}")
    if best and free:
        better = f"{way_and_place(free, named=several_kinds(plan))}: about {about(free.duration.middle)}, {price(free)}"
        lines.append(
            f"your choices ({_choices(plan)}) {_what_they_cost(best, free, plan.prefer)}; without them: {better}"
        )
    return noted(lines)


def noted(said: Sequence[str]) -> str:
    lines = (textwrap.fill(f"note: {one}", WIDTH, subsequent_indent=" " * 6, break_on_hyphens=False) for one in said)
    return "\n".join(lines)


def _what_they_cost(best: Candidate, free: Candidate, prefer: str) -> str:
    """By the preference first; a choice may also cost comfort alone."""
    billing = best.place.cluster.billing
    unit, dear, cheap = f"{best.place.node.unit}-hours", best.gpu_hours, free.gpu_hours
    if billing and priced((best, free)):
        unit, dear, cheap = billing_unit(billing), best.billing_units or 0, free.billing_units or 0
    dearer = (dear / cheap - 1 if cheap else 0, "cost", f"more {unit}")
    slower = (best.duration.middle / free.duration.middle - 1, "take", "longer")
    for share, verb, word in (dearer, slower) if prefer == "cheapest" else (slower, dearer):
        if share > EQUAL:
            return f"{verb} {100 * share:.0f} % {word}"
    if best.tight and not free.tight:
        return "leave less room than a prediction may be wrong"
    if best.duration.jobs > free.duration.jobs:
        return f"need {best.duration.jobs:,} jobs in a chain"
    return "are not the simplest way"


def _choices(plan: Plan) -> str:
    """'--gpus 4, --partition small-g': what the user decided in the planner's place."""
    return ", ".join(as_flag(name, getattr(plan.wishes, name)) for name in pinned(plan.wishes))
