"""`clusterlm chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from clusterlm.cli.options import with_options

SETTINGS = [
    click.option("--system", help="What the model is told before the conversation."),
    click.option("--max-new-tokens", type=int, help="Most tokens of an answer.  [256]"),
    click.option("--temperature", type=float, help="0: the likeliest token always.  [the model's own, else 0]"),
    click.option("--top-p", type=float, help="Only the likeliest tokens that make up this probability."),
    click.option("--seed", type=int, help="Of all random numbers.  [0]"),
    click.option("--dtype", metavar="[auto|float32|bfloat16|float16]", help="Of the weights.  [auto: as saved]"),
    click.option("--quantize", metavar="[none|int8|nf4]", help="Smaller weights by bitsandbytes.  [none]"),
    click.option("--device-map", help="Where the weights go: auto, cpu, cuda:0 ...  [auto]"),
    click.option("--revision", help="Branch, tag or commit of a model on the hub."),
]


@click.command(short_help="Talk with a model.")
@click.argument("model")
@with_options(SETTINGS)
def chat(model: str, **flags: Any) -> None:
    """Talk with MODEL: each line is a message, and the answer comes word by word.

    MODEL is a folder, a model id of the Hugging Face hub, or 'demo'. Ctrl-C ends an answer, Ctrl-D the conversation.
    Lines may come from a pipe, too; answers go to standard output.
    """
    from clusterlm.cli.models import find
    from clusterlm.runs.launch import check_packages
    from clusterlm.spec import STANDARD_STREAM, GenerateSpec, make_spec

    given = {name: value for name, value in flags.items() if value is not None}
    streams = {"input": STANDARD_STREAM, "output": STANDARD_STREAM}
    spec = make_spec(GenerateSpec, {"model": model, **streams, "chat": True, **given})
    check_packages(spec)
    folder = find(spec)

    from clusterlm.worker.conversation import Conversation

    conversation = Conversation(folder, spec)
    for line in _lines():
        pieces = conversation.answer(line)
        try:
            for piece in pieces:
                click.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            pieces.close()
        click.echo()


def _lines() -> Iterator[str]:
    """What the user writes, until they end it; blank lines are left out."""
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            click.echo("> ", nl=False, err=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            line = ""
        if not line:
            if is_terminal:
                click.echo(err=True)
            return
        if line.strip():
            yield line.strip()
