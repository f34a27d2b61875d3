"""A verdict as text for people: the headline, the three numbers, the phases, and what decides."""

from __future__ import annotations

from collections.abc import Sequence

from clusterlm.model.catalogue import published_parameters
from clusterlm.model.shape import ModelShape
from clusterlm.planning.adapters import trained_parameters
from clusterlm.planning.case import Case
from clusterlm.planning.changes import LARGEST_BATCH_TRIED
from clusterlm.planning.footprint import Item, Rule
from clusterlm.planning.serving import CachePool
from clusterlm.planning.verdict import Verdict
from clusterlm.report.explain import explained
from clusterlm.report.table import aligned, bar

GIB = 2**30
SHARDINGS = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}


def headline(verdict: Verdict) -> str:
    """One line: does it fit, how far from the limit, what decides, and what to do about it."""
    found = verdict.footprint
    where = "the GPU" if verdict.case.strategy.gpus == 1 else f"each of {verdict.case.strategy.gpus:,} GPUs"
    need = f"{gib(found.needed)} of {gib(verdict.available)} GiB needed on {where}"
    item = found.deciding_item
    decides = f"most at {found.deciding_phase.name!r}, of it {item.name} {gib(item.bytes)}"
    if not verdict.fits:
        return f"Does not fit: {need}; {decides}. {_way_out(verdict)}"
    if verdict.tight:
        return f"Fits, but by less than the 5 % that a prediction may be wrong: {need}; {decides}."
    return f"Fits: {need}; {decides}. {_room(verdict)}"


def _way_out(verdict: Verdict) -> str:
    if not verdict.changes:
        return "Nothing that was tried fits."
    first = verdict.changes[0]
    return f"It would fit with {first.words}: {gib(first.needed)} GiB."


def _room(verdict: Verdict) -> str:
    word = "micro-batch" if verdict.case.workload.trains else "batch"
    largest = verdict.largest_batch
    if largest is None or largest == verdict.case.workload.batch:
        return f"No larger {word} would."
    more = " or more" if largest >= LARGEST_BATCH_TRIED else ""
    return f"So would {word} {largest:,}{more}."


def plan_text(verdict: Verdict, *, explain: bool = False) -> str:
    """All but the headline."""
    case = verdict.case
    parts = [
        aligned([("model", model_line(case.shape)), ("", parts_line(case.shape)), *asked_rows(case)]),
        "\n".join(f"note: {caution}" for caution in verdict.cautions),
        _changes(verdict),
        *memory_tables(verdict),
    ]
    if explain:
        parts.append(explained(verdict))
    return "\n\n".join(part for part in parts if part)


def memory_tables(verdict: Verdict) -> list[str]:
    """All that is counted in bytes; a part that has nothing to say is empty."""
    found = verdict.footprint
    return [
        _three_numbers(verdict),
        _phases(verdict),
        items_of_peak(verdict),
        _amounts("HOST, EACH NODE", found.host_per_node, total=True),
        _amounts("DISK", found.disk, total=True),
        _amounts("NETWORK", found.network, total=False),
        _rules(found.rules_of_thumb),
    ]


def model_line(shape: ModelShape) -> str:
    """Name, architecture, parameters, those that one token uses, and the published count."""
    text = f"{shape.name} ({shape.architecture}): {shape.parameters:,} parameters"
    if shape.active_parameters != shape.parameters:
        text += f", {shape.active_parameters:,} active"
    published = published_parameters(shape.name)
    if published is None:
        return text
    if published == shape.parameters:
        return f"{text}, as published"
    return f"{text}; published: {published:,} ({100 * (shape.parameters / published - 1):+.2f} %)"


def parts_line(shape: ModelShape) -> str:
    counts = {name: count / 1e6 for name, count in shape.parameters_by_part().items() if count}
    parts = (f"{name} {count:,.{0 if count >= 10 else 2}f} M" for name, count in counts.items())
    tied = "; head tied to the embedding" if shape.tied else ""
    return ", ".join(parts) + tied


def asked_rows(case: Case, unit: str = "GPU") -> list[tuple[str, str]]:
    """`unit`: what the site's Slurm counts, GPU or GCD."""
    workload, strategy = case.workload, case.strategy
    rows = [("task", _task(case)), ("computed", _computed(case)), ("GPUs", _gpus(case))]
    if workload.trains:
        tokens = case.global_batch * workload.sequence_tokens
        factors = [
            f"micro-batch {workload.batch}",
            f"{strategy.data_degree:,} {unit}s" if strategy.data_degree > 1 else "",
            f"{case.accumulation_steps:,} accumulated" if case.accumulation_steps > 1 else "",
        ]
        whole = f"{counted(case.global_batch, 'sequence')}, {tokens:,} tokens"
        rows.insert(1, ("a step", f"{' x '.join(factor for factor in factors if factor)} = {whole}"))
    return rows


def _task(case: Case) -> str:
    shape, workload = case.shape, case.workload
    if workload.trains:
        trained = trained_parameters(shape, workload)
        share = f"{trained:,} parameters, {100 * trained / shape.parameters:.3g} %"
        if workload.method == "full":
            return f"train all parameters, sequences of {workload.sequence_tokens:,} tokens"
        targets = ", ".join(workload.lora_targets)
        how = f"{workload.method.replace('lora', 'LoRA').replace('q', 'Q')} of rank {workload.lora_rank} on {targets}"
        return f"train {how} ({share}), sequences of {workload.sequence_tokens:,} tokens"
    if workload.task == "embed":
        return f"embed {workload.batch} x {workload.sequence_tokens:,} tokens at once"
    tokens = f"{workload.sequence_tokens:,} tokens of prompt + {workload.new_tokens:,} new"
    return f"generate {workload.batch} x ({tokens}) at once"


def _computed(case: Case) -> str:
    workload, shape = case.workload, case.shape
    stored = shape.quantisation
    mixed = case.compute_dtype != case.weights_dtype
    words = [f"{case.compute_dtype} over {case.weights_dtype} weights" if mixed else case.weights_dtype]
    if workload.quantise or stored:
        words.append(f"weights in {workload.quantise or (stored.method if stored else '')}")
    if workload.trains:
        words += [workload.optimizer, f"gradient checkpointing {'on' if workload.checkpointing else 'off'}"]
    version = ".".join(str(part) for part in workload.software.version)
    if workload.software.engine != "vllm":  # which chooses its own kernels
        words.append(f"{workload.attention} attention")
    return ", ".join([*words, f"{workload.software.engine} {version}"])


def _gpus(case: Case) -> str:
    strategy, gpu = case.strategy, case.gpu
    if strategy.gpus == 1:
        return f"1 x {gpu.name}"
    nodes = "1 node" if strategy.nodes == 1 else f"{strategy.nodes:,} nodes of {strategy.gpus_per_node}"
    ways = []
    if strategy.tensor_degree > 1:
        ways.append(f"tensor parallel {strategy.tensor_degree}")
    if strategy.pipeline_degree > 1:
        ways.append(f"layers laid over {strategy.pipeline_degree}")
    if strategy.data_degree > 1:
        ways.append(f"data parallel {strategy.data_degree:,}")
    if strategy.sharding != "none":
        ways.append(SHARDINGS[strategy.sharding])
    if strategy.offload != "none":
        ways.append(f"offload: {strategy.offload}")
    return f"{strategy.gpus:,} x {gpu.name}, on {nodes}; {', '.join(ways)}"


def _changes(verdict: Verdict) -> str:
    rows = [(change.words, gib(change.needed), change.flags) for change in verdict.changes]
    return aligned([("IT WOULD FIT WITH", "GIB", "FLAGS"), *rows], numbers=[1]) if rows else ""


def _three_numbers(verdict: Verdict) -> str:
    found, gpu = verdict.footprint, verdict.case.gpu
    if verdict.case.workload.software.engine == "vllm":
        return _numbers_of_vllm(verdict)
    beside = [("holes between blocks", found.holes), *((item.name, item.bytes) for item in found.runtime)]
    added = "".join(f" + {name} {gib(amount)}" for name, amount in beside if amount)
    rows = [
        ("ONE GPU", "GIB", ""),
        ("allocated", gib(found.allocated), "what torch.cuda.max_memory_allocated will say"),
        ("reserved", f"{gib(found.reserved_low)} to {gib(found.reserved_high)}", "torch.cuda.max_memory_reserved"),
        ("needed", gib(found.needed), f"of the card: allocated{added}"),
        ("card", gib(gpu.memory_bytes), f"what a program can see of {gpu.name}"),
    ]
    return aligned(rows, numbers=[1])


def _numbers_of_vllm(verdict: Verdict) -> str:
    """vLLM takes its share of the card whatever it needs; what is left of it becomes the cache."""
    found, gpu = verdict.footprint, verdict.case.gpu
    pool = verdict.cache_pool or CachePool(0, 0)
    each = verdict.case.tokens_each
    at_once = counted(pool.sequences(each), "sequence") if pool.sequences(each) else "no sequence"
    held = f"{max(0, pool.tokens):,} tokens: {at_once} of {each:,} at once"
    graphs = found.runtime_bytes
    rows = [
        ("ONE GPU", "GIB", ""),
        ("profile run", gib(found.phases[0].bytes), "weights, and what the fullest step needs beside the cache"),
        ("needed", gib(found.needed), f"with the cache of this batch, and CUDA graphs {gib(graphs)}"),
        ("usable", gib(verdict.available), "vLLM's share of the card (gpu_memory_utilization 0.9), and the graphs"),
        ("cache pool", gib(max(0, pool.bytes)), held),
        ("card", gib(gpu.memory_bytes), f"what a program can see of {gpu.name}"),
    ]
    return aligned(rows, numbers=[1])


def _phases(verdict: Verdict) -> str:
    deciding = verdict.footprint.deciding_phase
    rows = [
        (phase.name, gib(phase.bytes), "<- decides" if phase == deciding else "") for phase in verdict.footprint.phases
    ]
    return aligned([("PHASE", "GIB", ""), *rows], numbers=[1])


def items_of_peak(verdict: Verdict) -> str:
    """The deciding phase, item by item; a whole bar is the card, or the need where that is more."""
    found = verdict.footprint
    whole = max(verdict.available, found.needed)
    items = [item for item in (*found.deciding_phase.items, *found.runtime) if item.bytes]
    unused = Item("holes between blocks", found.holes)
    items += [unused] if unused.bytes > 0 else []
    left = verdict.available - found.needed
    rows = [(item.name, gib(item.bytes), bar(item.bytes, whole)) for item in items]
    rows.append(("left", gib(left), "") if left >= 0 else ("missing", gib(-left), ""))
    return aligned([(found.deciding_phase.name.upper(), "GIB", ""), *rows], numbers=[1])


def _amounts(title: str, items: Sequence[Item], *, total: bool) -> str:
    if not items:
        return ""
    rows = [(item.name, gib(item.bytes), item.formula) for item in items]
    if total and len(items) > 1:
        rows.append(("together", gib(sum(item.bytes for item in items)), ""))
    return aligned([(title, "GIB", ""), *rows], numbers=[1])


def _rules(rules: Sequence[Rule]) -> str:
    """In GB too, as the guides have it."""
    rows = [("RULE OF THUMB", "GIB", "")]
    for rule in rules:
        rows.append((rule.name, gib(rule.bytes), f"{rule.formula} = {rule.bytes / 1e9:,.1f} GB"))
        rows.append(("", "", f"does not see {rule.misses}"))
    return aligned(rows, numbers=[1])


def counted(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def gib(count: float) -> str:
    """With a digit more below 10, and for what is hardly there the sign for it."""
    amount = count / GIB
    if 0 < abs(amount) < 0.005:
        return "<0.01"
    return f"{amount:,.2f}" if abs(amount) < 9.995 else f"{amount:,.1f}"
