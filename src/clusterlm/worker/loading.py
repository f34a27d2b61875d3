"""Loading a model and its tokenizer, and what the scheduler must know of them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    module: Any
    device: torch.device
    accepts: frozenset[str]
    dummy_layers: tuple[bool, ...]
    weight_bytes: int

    @classmethod
    def of(cls, module: Any) -> "LoadedModel":
        cache = DynamicCache(config=module.config)
        return cls(
            module=module,
            device=module.get_input_embeddings().weight.device,
            accepts=frozenset(inspect.signature(module.forward).parameters),
            dummy_layers=tuple(isinstance(l, DummyLayer) for l in cache.layers),
            weight_bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
        )

    @torch.inference_mode()
    def forward(self, ids, mask, positions, cache):
        kw = dict(input_ids=ids.to(self.device), attention_mask=mask, past_key_values=cache, use_cache=True)
        if "position_ids" in self.accepts:
            kw["position_ids"] = positions
        if "logits_to_keep" in self.accepts:
            kw["logits_to_keep"] = 1
        return self.module(**kw).logits[:, -1]
