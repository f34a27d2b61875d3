"""The steps that are measured: a training step that has optimizer states, and prefill with the last decode step."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch

from clusterlm.worker.trace.build import transformer
from clusterlm.worker.trace.request import TraceRequest
from clusterlm.worker.trace.storage import StorageTracker


def run_steps(model: Any, request: TraceRequest, tracker: StorageTracker) -> None:
    if request.task == "train":
        train(model, request, tracker)
    else:
        generate(model, request, tracker)


def train(model: Any, request: TraceRequest, tracker: StorageTracker) -> None:
    optimizer = make_optimizer(model, request)
    make_states(optimizer)
    batch = _batch(model, request)
    batch["labels"] = torch.zeros_like(batch["input_ids"])
    tracker.phase("forward")
    # As the Trainer: the outputs, with the logits, are let go before the backward pass.
    with torch.autocast("cpu", dtype=torch.bfloat16) if request.autocast else nullcontext():
        loss = model(**batch).loss
    tracker.phase("backward", "loss")
    loss.backward()
    tracker.phase("optimizer")
    tracker.event_per_operation = True
    optimizer.step()
    tracker.event_per_operation = False
    tracker.phase(None)
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def generate(model: Any, request: TraceRequest, tracker: StorageTracker) -> None:
    """Prefill, and the decode step that has the longest cache."""
    batch = _batch(model, request)
    ids = batch["input_ids"]
    tracker.phase("prefill")
    cache = _forward(model, batch)
    tracker.phase(None)
    if request.new_tokens == 1:
        return
    token = {"input_ids": ids[:, -1:]}
    # A sliding window's layer holds the whole prompt after prefill, and what is appended here, until the next step.
    if request.new_tokens > 2:
        _append(cache, request.new_tokens - 3)
        cache = _forward(model, token | _mask(request, request.sequence_tokens + request.new_tokens - 2), cache)
    tracker.phase("decode")
    cache = _forward(model, token | _mask(request, request.sequence_tokens + request.new_tokens - 1), cache)
    tracker.phase(None)


def make_optimizer(model: Any, request: TraceRequest) -> torch.optim.Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if request.optimizer == "adamw":
        return torch.optim.AdamW(weights, foreach=request.foreach)
    if request.optimizer == "adamw_fused":
        return torch.optim.AdamW(weights, fused=True)
    if request.optimizer == "sgd":
        return torch.optim.SGD(weights, foreach=request.foreach)
    from transformers.optimization import Adafactor

    # As the Trainer sets it: a fixed learning rate.
    return Adafactor(weights, lr=1e-3, scale_parameter=False, relative_step=False)


def make_states(optimizer: torch.optim.Optimizer) -> None:
    """What a first step leaves behind; it needs gradients, not the forward and backward passes that make them."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _batch(model: Any, request: TraceRequest) -> dict[str, torch.Tensor]:
    vocabulary = transformer(model).config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(0, vocabulary, (request.batch, request.sequence_tokens))
    return {"input_ids": ids} | _mask(request, request.sequence_tokens)


def _mask(request: TraceRequest, tokens: int) -> dict[str, torch.Tensor]:
    """Left padding so long that a sliding window sees it too; no mask at all is the same as no padding."""
    if not request.padded:
        return {}
    mask = torch.ones(request.batch, tokens, dtype=torch.long)
    mask[:-1, :-1] = 0
    return {"attention_mask": mask}


def _forward(model: Any, batch: dict[str, torch.Tensor], cache: Any = None) -> Any:
    """The cache after a forward pass that computes the last position's logits, as generation does."""
    accepted = inspect.signature(transformer(model).forward).parameters
    named: dict[str, Any] = {"use_cache": True}
    if "logits_to_keep" in accepted:
        named["logits_to_keep"] = 1
    cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
    if cache is not None:
        named[cache_name] = cache
    return getattr(model(**batch, **named), cache_name)


def _append(cache: Any, tokens: int) -> None:
    """Lengthen every layer that keeps keys and values; recurrent states do not grow."""
    for layer in getattr(cache, "layers", []):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if tokens > 0 and isinstance(keys, torch.Tensor) and isinstance(values, torch.Tensor) and keys.dim() == 4:
            layer.update(_tokens_like(keys, tokens), _tokens_like(values, tokens))


def _tokens_like(states: torch.Tensor, tokens: int) -> torch.Tensor:
    rows, heads, _, size = states.shape
    return states.new_zeros(rows, heads, tokens, size)
