"""Will this language model run on my cluster, how, at what price: answers it, then does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterlm.version import __version__

if TYPE_CHECKING:
    from clusterlm.records.request import Result

__all__ = ["__version__", "generate"]


def generate(model: str | Path, prompts: Iterable[str | list[Mapping[str, Any]]], **options: Any) -> Iterator[Result]:
    """A Result for each prompt (a text, or a conversation as a list of messages), in the order of the prompts.

    `options` are those of `clusterlm generate`, with underscores: max_new_tokens=64, temperature=0.7. Nothing is
    written; for a job that must not lose anything use the command. A prompt that fails has a Result with `error`.
    """
    # torch must not be loaded by `import clusterlm`.
    from clusterlm.worker.session import generate_in_memory

    return generate_in_memory(str(model), prompts, options)
