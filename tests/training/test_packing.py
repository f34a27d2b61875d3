"""Packed sequences stay strangers, for every architecture: or they are not packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from clusterlm.worker.training.data.packing import keeps_apart
from tests.engines.zoo import ARCHITECTURES, RECURRENT

MIXED = {"opt", "bloom", "falcon", "mpt", "gpt_oss", "mamba"}
"""A sequence sees the one before it in its row. Found by hand with transformers 5.23, sdpa, float32; what the product
finds out is held against it."""


@pytest.mark.parametrize("architecture", sorted({**ARCHITECTURES, **RECURRENT}))
def test_what_is_packed_gives_the_logits_of_each_alone(tiny: Callable[[str], Path], architecture: str) -> None:
    folder = tiny(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    first, second = torch.arange(3, 33)[None], torch.arange(40, 55)[None]
    positions = torch.cat([torch.arange(30), torch.arange(15)])[None]
    with torch.no_grad():
        alone = model(second).logits
        row = torch.cat([first, second], dim=1)
        arguments = {} if architecture == "mamba" else {"position_ids": positions}
        packed = model(row, use_cache=False, **arguments).logits[:, 30:]
    is_exact = bool(torch.allclose(packed, alone, atol=1e-3 * float(alone.abs().max())))
    config = json.loads((folder / "config.json").read_text())
    attention = getattr(model.config, "_attn_implementation", "eager")
    assert keeps_apart(config, attention) is is_exact
    assert is_exact is (architecture not in MIXED)
