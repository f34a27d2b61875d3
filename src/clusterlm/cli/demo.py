"""`clusterlm demo`: the main job on the built-in model, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from clusterlm.store import ModelFolder

PROMPTS = 200

PROMPT_WORDS = 8

SHOWN_ANSWERS = 3


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Where the prompts and the answers go.",
)
def demo(folder: Path) -> None:
    """Make a small model on the spot and answer 200 prompts with it: no network, no GPU.

    The model is trained once, in about a minute, on the English text that every Python installs, and kept in the
    cache. It writes English-like text; it knows nothing. 'demo' names it wherever a MODEL is wanted.
    """
    from clusterlm.cli.models import demo_model
    from clusterlm.cli.work import work
    from clusterlm.spec import GenerateSpec, make_spec

    model = demo_model()
    _show_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    prompts, answers = folder / "prompts.txt", folder / "answers.jsonl"
    prompts.write_text("".join(f"{prompt}\n" for prompt in _prompts()))
    click.echo(f"\n$ clusterlm generate demo {prompts} -o {answers} --max-new-tokens 64 --temperature 0.7", err=True)
    asked = {"input": str(prompts), "output": str(answers), "max_new_tokens": 64, "temperature": 0.7}
    status = work(make_spec(GenerateSpec, {"model": "demo", **asked}))
    click.echo("\nthe first answers:", err=True)
    with open(answers) as file:
        for line, _ in zip(file, range(SHOWN_ANSWERS), strict=False):
            _show_answer(json.loads(line))
    click.get_current_context().exit(status)


def _show_model(model: ModelFolder) -> None:
    from clusterlm.worker.demo_model import CONTINUATION_PROMPTS, ensure_demo_model

    made = ensure_demo_model()
    click.echo(
        f"demo model: {made.parameters / 1e6:.1f} M parameters, trained in {made.seconds:.0f} s; loss on text that it"
        f" has not seen: {made.loss_before:.2f} before, {made.loss_after:.2f} after (nats per token)\n{made.folder}\n",
        err=True,
    )
    import clusterlm

    options = {"max_new_tokens": 40, "temperature": 0.7}
    for prompt, result in zip(
        CONTINUATION_PROMPTS, clusterlm.generate(model.path, CONTINUATION_PROMPTS, **options), strict=True
    ):
        _show_answer({"prompt": prompt, "text": result.choices[0].text})


def _show_answer(answer: dict[str, str]) -> None:
    text = " ".join(answer["text"].split())
    click.echo(f"  {answer['prompt']} {click.style(text, fg='cyan')}", err=True)


def _prompts() -> list[str]:
    """Beginnings of sentences of Python's own help texts."""
    import re
    from pydoc_data.topics import topics

    beginnings: dict[str, None] = {}
    for text in topics.values():
        for sentence in re.split(r"(?<=[.:])\s+", " ".join(text.split())):
            words = sentence.split()
            if (
                len(words) > PROMPT_WORDS
                and sentence[0].isupper()
                and all(word.isalpha() for word in words[:PROMPT_WORDS])
            ):
                beginnings[" ".join(words[:PROMPT_WORDS])] = None
    return list(beginnings)[:PROMPTS]
