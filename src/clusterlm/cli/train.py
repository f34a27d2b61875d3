"""`clusterlm train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clusterlm.cli.job_options import (
    JOB_OF_TRAINING,
    NOT_OF_TRAINING,
    OF_JOBS,
    PLACE_OF_TRAINING,
    placing_and_terms,
    refuse_without_cluster,
)
from clusterlm.cli.options import with_options

if TYPE_CHECKING:
    from clusterlm.spec import TrainSpec

DATA = [
    click.option("--column", help="Column (or JSON key) that holds the text, or the messages."),
    click.option("--template", help='Text from a row\'s columns: "Q: {question} A: {answer}".'),
    click.option("--split", help="Split of a Hugging Face dataset folder."),
    click.option("--whole-file/--by-line", default=None, help="A .txt file is one text, not one a line."),
    click.option("--eval", metavar="FILE", help="Texts that are held out: their loss is told, not learned."),
    click.option("--eval-fraction", type=float, help="Or hold out this part of the data.  [0]"),
    click.option("--eval-steps", type=int, help="Look at them every so many steps.  [before and after]"),
    click.option("--sequence-length", type=int, help="Most tokens of a sequence.  [2048, or the model's context]"),
    click.option("--too-long", metavar="[split|truncate|drop]", help="Longer ones.  [texts: split; others: truncate]"),
    click.option("--packing/--no-packing", default=None, help="Several sequences in a row.  [where it is exact]"),
]
METHOD = [
    click.option("--method", metavar="[full|lora|qlora]", help="All weights, or an adapter.  [full]"),
    click.option("--lora-rank", type=int, help="Of the adapters.  [16]"),
    click.option("--lora-alpha", type=int, help="Their scale.  [twice the rank]"),
    click.option("--lora-dropout", type=float, help="[0]"),
    click.option("--lora-targets", metavar="NAME,NAME", help="Layers that get adapters.  [all-linear]"),
    click.option("--merge", is_flag=True, default=None, help="Write the whole model, not only the adapter."),
]
LEARNING = [
    click.option("--epochs", type=int, help="Times that the data is seen.  [1]"),
    click.option("--max-steps", type=int, help="Or so many steps."),
    click.option("--global-batch-size", type=int, help="Sequences of a step, over all GPUs.  [64]"),
    click.option("--learning-rate", type=float, help="[2e-5; adapters: 2e-4]"),
    click.option("--schedule", metavar="[cosine|linear|constant]", help="Of the learning rate.  [cosine]"),
    click.option("--warm-up", type=float, help="Part of the steps in which it rises.  [0.03]"),
    click.option("--weight-decay", type=float, help="[0]"),
    click.option("--max-grad-norm", type=float, help="Longer gradients are shortened.  [1]"),
    click.option("--optimizer", metavar="[adamw-fused|adamw|adamw-8bit|...]", help="[adamw-fused]"),
    click.option("--seed", type=int, help="Of all random numbers.  [0]"),
]
COMPUTING = [
    click.option("--dtype", metavar="[auto|float32|bfloat16|float16]", help="Of the weights.  [auto: mixed]"),
    click.option("--attention", metavar="[auto|sdpa|flash|eager]", help="Kernel of the attention.  [auto]"),
    click.option("--micro-batch", type=int, help="Sequences of full length at once on a GPU.  [what fits]"),
    click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=None, help="Less memory, more time."),
    click.option("--strategy", metavar="[auto|single|ddp|fsdp|zero1|zero2|zero3]", help="How GPUs share.  [auto]"),
    click.option("--offload", metavar="[none|optimizer-cpu|cpu]", help="What leaves the GPU.  [none]"),
    click.option("--deepspeed-config", metavar="FILE", help="Your own ds_config.json, in place of both."),
    click.option("--accelerate-config", metavar="FILE", help="Or your own file of `accelerate config`."),
    click.option("--gpus", type=int, help="GPUs; without any, processes that share the CPU.  [1; --on: by the plan]"),
    click.option("--revision", help="Branch, tag or commit of a model on the hub."),
]
SAVING = [
    click.option("--checkpoint-steps", type=int, help="Steps between two checkpoints."),
    click.option("--checkpoint-minutes", type=float, help="Or minutes.  [15]"),
    click.option("--keep-checkpoints", type=int, help="[2]"),
    click.option("--report-to", multiple=True, metavar="[tensorboard|wandb|mlflow]", help="Besides the run folder."),
]


@click.command(short_help="A model and texts in, the model that has learned them out.")
@click.argument("model")
@click.argument("data", required=False)
@click.option("-o", "--output", help="Folder of the trained model.")
@with_options(DATA + METHOD + LEARNING + COMPUTING + SAVING)
@click.option("--restart", is_flag=True, help="Throw away what an earlier run to this OUTPUT did.")
@with_options(PLACE_OF_TRAINING + JOB_OF_TRAINING + NOT_OF_TRAINING)
@click.option("--dry-run", is_flag=True, help="With --on: print the batch script; nothing is written or queued.")
def train(model: str, data: str | None, restart: bool, dry_run: bool, **flags: Any) -> None:
    """Fine-tune MODEL on DATA.

    MODEL is a folder, a model id of the Hugging Face hub, or 'demo' (a small one, made on the spot).
    DATA is .jsonl, .csv, .tsv, .parquet, .txt or a dataset folder with a column text, or prompt and
    completion (only completions are learned), or messages (only the assistant's turns are learned).
    A run file (run.toml) in place of both holds the same settings by the same names; flags win over it.

    Checkpoints are in OUTPUT.run; the same command again continues behind the last one.

    With --on CLUSTER the same is done as Slurm jobs, which continue each other: see clusterlm runs. The plan
    decides what is left open: GPUs, how they share the model, how much at once.
    """
    of_jobs = {name: flags.pop(name) for name in OF_JOBS if name != "gpus"}
    is_job = of_jobs["on"] is not None or of_jobs["cluster"] is not None
    spec = _with_own_file(_spec(model, data, flags), restart, is_job, of_jobs["nodes"])
    if not is_job:
        from clusterlm.cli.learn import learn

        refuse_without_cluster({**of_jobs, "dry_run": dry_run})
        click.get_current_context().exit(learn(spec, restart=restart))
    from clusterlm.cli.submit import submit_run

    placing, terms, on, file = placing_and_terms({**of_jobs, "gpus": spec.gpus})
    submit_run(spec, placing, terms, on=on, file=file, dry_run=dry_run, restart=restart)


def _with_own_file(spec: TrainSpec, restart: bool, is_job: bool, nodes: int | None) -> TrainSpec:
    from clusterlm.runs.own_file import with_own_file

    known, notes = with_own_file(spec, as_job=is_job, nodes=nodes, restart=restart)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return known


def _spec(model: str, data: str | None, flags: dict[str, Any]) -> TrainSpec:
    from clusterlm.errors import UsageError
    from clusterlm.spec import TrainSpec, make_spec, read_run_file

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if targets := given.get("lora_targets"):
        given["lora_targets"] = tuple(name.strip() for name in targets.split(","))
    if data is None and model.endswith(".toml"):
        return make_spec(TrainSpec, {**read_run_file(Path(model)), **given}, where=model)
    if data is None:
        raise UsageError("DATA is missing", hint="clusterlm train MODEL DATA -o OUTPUT, or a run file: run.toml")
    if "output" not in given:
        raise UsageError("OUTPUT is missing", hint="-o my-model")
    return make_spec(TrainSpec, {"model": model, "input": data, **given})
