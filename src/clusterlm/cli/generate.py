"""`clusterlm generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clusterlm.cli.job_options import JOB, OF_JOBS, PLACE, placing_and_terms, refuse_without_cluster
from clusterlm.cli.options import with_options

if TYPE_CHECKING:
    from clusterlm.spec import GenerateSpec

READING = [
    click.option("--column", help="Column (or JSON key) that holds the prompt."),
    click.option("--template", help='Prompt from a row\'s columns: "Summarise: {text}".'),
    click.option("--split", help="Split of a Hugging Face dataset folder."),
    click.option("--whole-file/--by-line", default=None, help="A .txt file is one prompt, not one a line."),
]
SAMPLING = [
    click.option("--max-new-tokens", type=int, help="Most tokens of an answer.  [256]"),
    click.option("--temperature", type=float, help="0: the likeliest token always.  [the model's own, else 0]"),
    click.option("--top-p", type=float, help="Only the likeliest tokens that make up this probability."),
    click.option("--top-k", type=int, help="Only so many of the likeliest tokens; 0: all."),
    click.option("--repetition-penalty", type=float, help="Above 1: words said before become less likely."),
    click.option("--seed", type=int, help="Of all random numbers; each record has its own from it.  [0]"),
    click.option("--n", type=int, help="Answers to each prompt.  [1]"),
    click.option("--stop", multiple=True, help="Text that ends an answer; may be given several times."),
]
CHAT = [
    click.option("--chat/--no-chat", default=None, help="Use the model's chat template.  [only for messages]"),
    click.option("--system", help="System message of every conversation."),
]
COMPUTING = [
    click.option("--dtype", metavar="[auto|float32|bfloat16|float16]", help="Of the weights.  [auto: as saved]"),
    click.option("--quantize", metavar="[none|int8|nf4]", help="Smaller weights by bitsandbytes.  [none]"),
    click.option("--device-map", help="Where the weights go: auto, cpu, cuda:0 ...  [auto]"),
    click.option("--max-batch-tokens", type=int, help="Tokens in memory at once.  [what fits]"),
    click.option("--engine", metavar="[auto|transformers]", help="What computes.  [auto]"),
    click.option("--revision", help="Branch, tag or commit of a model on the hub."),
]
WRITING = [
    click.option("--prompt-response", is_flag=True, default=None, help="Two columns only: prompt and response."),
    click.option("--prompt-as", metavar="[text|hash]", help="Repeat prompts in the output, or their SHA-256.  [text]"),
]


@click.command(short_help="A file of prompts in, a file of answers out.")
@click.argument("model")
@click.argument("input", required=False)
@click.option("-o", "--output", help="Where the answers go: .jsonl, .csv, .tsv, .parquet, or - (standard output).")
@with_options(READING + SAMPLING + CHAT + COMPUTING + WRITING)
@click.option("--restart", is_flag=True, help="Throw away what an earlier run to this OUTPUT did.")
@with_options(PLACE + JOB)
@click.option("--dry-run", is_flag=True, help="With --on: print the batch script; nothing is written or queued.")
def generate(model: str, input: str | None, restart: bool, dry_run: bool, **flags: Any) -> None:
    """Answer every prompt of INPUT with MODEL.

    MODEL is a folder, a model id of the Hugging Face hub, or 'demo' (a small one, made on the spot).
    INPUT is .txt, .jsonl, .csv, .tsv, .parquet, a dataset folder, or - (standard input).
    A run file (run.toml) in place of both holds the same settings by the same names; flags win over it.

    Results are safe on the disk as they finish, in OUTPUT.run; the same command again continues where
    it stopped.

    With --on CLUSTER the same is done as Slurm jobs, which continue each other: see clusterlm runs.
    """
    of_jobs = {name: flags.pop(name) for name in OF_JOBS}
    spec = _spec(model, input, flags)
    if of_jobs["on"] is None and of_jobs["cluster"] is None:
        from clusterlm.cli.work import work

        refuse_without_cluster({**of_jobs, "dry_run": dry_run})
        click.get_current_context().exit(work(spec, restart=restart))
    from clusterlm.cli.submit import submit_run

    placing, terms, on, file = placing_and_terms(of_jobs)
    submit_run(spec, placing, terms, on=on, file=file, dry_run=dry_run, restart=restart)


def _spec(model: str, input: str | None, flags: dict[str, Any]) -> GenerateSpec:
    from clusterlm.errors import UsageError
    from clusterlm.spec import GenerateSpec, make_spec, read_run_file

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if input is None and model.endswith(".toml"):
        return make_spec(GenerateSpec, {**read_run_file(Path(model)), **given}, where=model)
    if input is None:
        raise UsageError("INPUT is missing", hint="clusterlm generate MODEL INPUT -o OUTPUT, or a run file: run.toml")
    if "output" not in given:
        raise UsageError("OUTPUT is missing", hint="-o answers.jsonl, or -o - for standard output")
    return make_spec(GenerateSpec, {"model": model, "input": input, **given})
