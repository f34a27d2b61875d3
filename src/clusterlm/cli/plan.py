"""`clusterlm plan`: will it fit, how, how long will it take; on a cluster, or on a card alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from clusterlm.cli.options import with_options

if TYPE_CHECKING:
    from clusterlm.planning.verdict import Verdict
    from clusterlm.planning.wishes import Wishes
    from clusterlm.worker.trace.request import Trace

DOES_NOT_FIT = 3

WHAT = [
    click.option("--on", metavar="CLUSTER", help="A cluster's name (clusterlm clusters list), its file, or auto."),
    click.option("--cluster", metavar="FILE", help="A cluster's own file; goes before one of its name."),
    click.option("--gpu", metavar="NAME", help="Kind of GPU: a100-80, h100-80, mi250x ...  [needed without --on]"),
    click.option("--task", metavar="[generate|embed|train]", help="What the model does.  [generate]"),
    click.option("--method", metavar="[full|lora|qlora]", help="How it is trained; says --task train too.  [full]"),
    click.option(
        "--batch", type=int, help="Sequences at once on a GPU; of a whole step in training.  [1; --on: 64 a step]"
    ),
    click.option("--micro-batch", type=int, help="Training: sequences at once on a GPU.  [1]"),
    click.option("--sequence-length", type=int, help="Tokens of a sequence, or of a prompt.  [2048]"),
    click.option("--new-tokens", type=int, help="Tokens of an answer.  [256]"),
]
HOW = [
    click.option("--dtype", metavar="[auto|bfloat16|float16|float32]", help="Of the weights.  [auto: as saved]"),
    click.option(
        "--autocast/--no-autocast",
        default=None,
        help="Training: float32 weights (full) or adapters (LoRA), computed in 16 bits.  [on with --dtype auto]",
    ),
    click.option("--quantize", metavar="[int8|nf4|nf4-dq|fp8|...]", help="Smaller weights.  [none; nf4-dq for qlora]"),
    click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=None, help="Training.  [on]"),
    click.option("--optimizer", metavar="[adamw|adamw-8bit|...]", help="Training.  [adamw-fused]"),
    click.option("--lora-rank", type=int, help="Of the adapters.  [16]"),
    click.option("--lora-targets", metavar="NAME,NAME", help="Modules that get adapters.  [all-linear]"),
    click.option("--engine", metavar="[transformers|vllm]", help="What generates.  [transformers]"),
    click.option("--attention", metavar="[sdpa|flash|eager]", help="Kernel of the attention.  [sdpa]"),
]
WHERE = [
    click.option("--gpus", type=int, help="GPUs in all.  [1]"),
    click.option("--gpus-per-node", type=int, help="GPUs in a node.  [8]"),
    click.option(
        "--strategy",
        metavar="[single|ddp|fsdp|zero1|zero2|zero3|tensor|pipeline]",
        help="How several GPUs share the work.  [training: fsdp; transformers: pipeline; vllm: tensor]",
    ),
    click.option("--offload", metavar="[none|optimizer-cpu|cpu|nvme]", help="Training: what leaves the GPU.  [none]"),
    click.option("--keep-checkpoints", type=int, help="Training: checkpoints on the disk.  [2]"),
    click.option("--copies", type=int, help="Whole copies of the model, each cut over its share of the GPUs."),
]
CLUSTER = [
    click.option("--prefer", metavar="[cheapest|fastest|soonest]", help="With --on: what is best.  [cheapest]"),
    click.option("--partition", metavar="NAME", help="With --on: this one only."),
    click.option("--nodes", type=int, help="With --on: so many whole nodes."),
    click.option("--dataset-tokens", type=int, help="Training: size of the data set, for time and disk."),
    click.option("--epochs", type=int, help="Training, with --on: times the data set is seen.  [1]"),
    click.option("--records", type=int, help="Otherwise, with --on: prompts or texts there are."),
]


@click.command(short_help="Will a model fit on a cluster or a GPU, how, and at what price.")
@click.argument("model")
@with_options(WHAT + HOW + WHERE + CLUSTER)
@click.option("--all", "whole", is_flag=True, help="With --on: all ways, not only the best.")
@click.option("--trace", is_flag=True, help="Beside it the bytes of the real model class (needs torch; seconds).")
@click.option("--explain", is_flag=True, help="Each item's formula with its numbers, and its source.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(
    model: str,
    on: str | None,
    cluster: str | None,
    gpu: str | None,
    lora_targets: str | None,
    whole: bool,
    trace: bool,
    explain: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Will MODEL fit, how, how long does it take, and at what price? Without its weights and without a GPU.

    MODEL is a folder with a config.json, a model id of the Hugging Face hub, or a name from the built-in catalogue,
    which needs no network. --on CLUSTER finds the best way to run it there; --gpu alone counts the memory of one way.
    In brackets is what is meant where nothing is said; with --on the sizes and numbers that fit best are found instead.

    \b
    Exit status: 0 it fits; 3 it does not; 1 and 2 as everywhere.
    """
    from clusterlm.errors import UsageError
    from clusterlm.planning.wishes import Wishes

    if explain and as_json:
        raise UsageError(
            "prints text; --json holds formulas and sources already", where="--explain", hint="leave it out"
        )
    if not model.strip():
        raise UsageError("the name is empty", where="MODEL", hint="gpt2, or a folder with a config.json, for example")
    targets = _targets(lora_targets)
    if on is None and cluster is None:
        _refuse_flags_of_a_cluster(whole, flags)
        fits = _plan_on_gpu(model, gpu, Wishes(lora_targets=targets, **flags), trace, explain, as_json)
    else:
        from clusterlm.cli.plan_on import Shown, plan_on_cluster

        wishes = Wishes(lora_targets=targets, gpu=gpu, **flags)
        fits = plan_on_cluster(model, on, cluster, wishes, Shown(as_json, explain, trace, whole))
    click.get_current_context().exit(0 if fits else DOES_NOT_FIT)


def _targets(given: str | None) -> tuple[str, ...] | None:
    from clusterlm.errors import UsageError

    names = None if given is None else tuple(name.strip() for name in given.split(","))
    if names is not None and not all(names):
        problem = "the name of a module is empty"
        raise UsageError(problem, where="--lora-targets", hint="--lora-targets q_proj,v_proj, or all-linear")
    return names


def _refuse_flags_of_a_cluster(whole: bool, flags: dict[str, Any]) -> None:
    """What only a cluster gives a choice of, and what only the time follows from."""
    from clusterlm.errors import UsageError
    from clusterlm.planning.wishes import flag

    given = [flag(name) for name in ("partition", "nodes", "prefer", "epochs", "records") if flags[name] is not None]
    if whole:
        given.append("--all")
    if given:
        raise UsageError("belongs to a plan on a cluster", where=given[0], hint="--on lumi, for example")


def _plan_on_gpu(model: str, gpu: str | None, wishes: Wishes, trace: bool, explain: bool, as_json: bool) -> bool:
    """Of a card without a cluster: memory alone."""
    from clusterlm.cli.sizes import find_config, find_shape, only_traceable
    from clusterlm.cluster import find_gpu
    from clusterlm.errors import UsageError
    from clusterlm.planning.settle import settle
    from clusterlm.planning.verdict import judge

    if gpu is None:
        hint = "--gpu a100-80 counts the memory on such a card; --on lumi plans for a cluster"
        raise UsageError("the kind of GPU is missing", where="--gpu", hint=hint)
    card = find_gpu(gpu)
    traced = None
    if trace:
        from clusterlm.cli.trace import traced_case

        config = find_config(model)
        shape = None if only_traceable(config) else find_shape(model)
        traced = traced_case(config, shape, card, wishes)
        if shape is None:
            _show_trace_alone(traced, as_json)
            return True
    else:
        shape = find_shape(model)
    verdict = judge(settle(shape, card, wishes), wishes)
    if as_json:
        _print_json(verdict, traced)
    else:
        _print_text(verdict, traced, explain)
    return verdict.fits


def _print_json(verdict: Verdict, traced: Trace | None) -> None:
    from clusterlm.report.plan_values import plan_values

    values = plan_values(verdict)
    if traced:
        values["trace"] = traced.to_json()
    click.echo(json.dumps(values, indent=2))


def _print_text(verdict: Verdict, traced: Trace | None, explain: bool) -> None:
    from clusterlm.report.plan import headline, plan_text

    colour = "green" if verdict.fits and not verdict.tight else "yellow" if verdict.fits else "red"
    click.echo(click.style(headline(verdict), fg=colour, bold=True))
    click.echo()
    click.echo(plan_text(verdict, explain=explain))
    if traced:
        from clusterlm.report.trace import trace_text

        click.echo()
        click.echo(trace_text(traced, verdict.footprint))


def _show_trace_alone(traced: Trace, as_json: bool) -> None:
    from clusterlm.report.trace import trace_text

    click.echo(json.dumps({"trace": traced.to_json()}, indent=2) if as_json else trace_text(traced, None))
