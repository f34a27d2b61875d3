"""Whether sequences that share a row stay strangers to each other: tried out, on a small model of the same structure.

Which architectures read positions as the borders of sequences changes with each release of transformers, and with the
attention that computes; so no list is kept. Contaminated batches train without an error, and worse.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from clusterlm.errors import ClusterlmError, UsageError
from clusterlm.spec import TrainSpec
from clusterlm.store import config_folder
from clusterlm.worker.trace.build import read_config
from clusterlm.worker.trace.small import Dice, shallow

LENGTHS = (7, 12, 5)
TOLERANCE = 1e-4
"""Of the largest logit; what float32 sums differ by in another order is a tenth of it."""


def decide_packing(path: Path, spec: TrainSpec, attention: str) -> tuple[bool, str | None]:
    """Whether to pack, and what the user should know of it. UsageError where it is asked for and would be wrong."""
    if spec.packing is False:
        return False, None
    config = json.loads((config_folder(path) / "config.json").read_bytes())
    if keeps_apart(config, attention):
        return True, None
    kind = config.get("model_type", "this architecture")
    if spec.packing:
        problem = f"with {attention} attention, {kind} lets sequences of one row see each other"
        raise UsageError(problem, where="--packing", hint="leave --packing out: sequences are filled up instead")
    return False, f"not packed: with {attention} attention, {kind} would let sequences of one row see each other"


def keeps_apart(config: dict[str, Any], attention: str) -> bool:
    """Compares the logits of sequences in one row with those of each alone; False, too, where it cannot be tried."""
    try:
        small, _ = Dice(shallow(config.get("text_config", config)), 0, free_head=False, beyond_window=True).draw()
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                read_config(small), dtype=torch.float32, attn_implementation=attention
            ).eval()
            return _is_equal(model)
    except (ClusterlmError, ValueError, RuntimeError, KeyError, TypeError, ImportError):
        return False


@torch.no_grad()
def _is_equal(model: Any) -> bool:
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "norm" not in name:
            weight.normal_(std=0.2)  # large enough for a foreign token to be felt
    vocabulary = model.config.get_text_config().vocab_size
    sequences = [torch.randint(vocabulary, (1, length)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length)[None] for length in LENGTHS], dim=1)
    row = torch.cat(sequences, dim=1)
    # Two rows at once: some architectures tell sequences apart in one row alone.
    packed = model(input_ids=row.repeat(2, 1), position_ids=positions.repeat(2, 1), use_cache=False).logits
    alone = torch.cat([model(input_ids=one, use_cache=False).logits for one in sequences], dim=1)
    difference = (packed - alone).abs().max()
    return bool(difference <= TOLERANCE * alone.abs().max())
