"""What fake tensors would get wrong: where a library looks into a tensor to choose its way, or refuses a fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import _meta_registrations
from transformers import masking_utils


@contextmanager
def blindfold() -> Iterator[None]:
    """For steps under fake tensors. The names are internal to torch and transformers: a missing one changes nothing."""
    with ExitStack() as stack:
        stack.enter_context(_replaced(masking_utils, "find_packed_sequence_indices", _nothing_packed))
        stack.enter_context(_replaced(_meta_registrations, "_meta_grouped_mm_common", _grouped_output))
        yield


def _nothing_packed(original: Any, position_ids: torch.Tensor) -> None:
    """It looks for jumps in the position ids; without one it returns None, and attention needs no mask."""
    return None


def _grouped_output(
    original: Any, states: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor | None = None, **named: Any
) -> torch.Tensor:
    """The kernels compute in every floating type; the fake refuses all but bfloat16."""
    out_dtype = named.get("out_dtype") or states.dtype
    output: torch.Tensor = _meta_registrations._create_grouped_mm_output_tensor(states, weight, offs, out_dtype)
    return output


@contextmanager
def _replaced(module: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    original = getattr(module, name, None)
    if original is None:
        yield
        return
    setattr(module, name, lambda *arguments, **named: replacement(original, *arguments, **named))
    try:
        yield
    finally:
        setattr(module, name, original)
