"""Tells the tracker where execution is: embedding, layer i, final norm, head, forward and backward."""

from __future__ import annotations

from typing import Any

import torch

from clusterlm.worker.trace.build import decoder_layers, transformer
from clusterlm.worker.trace.storage import StorageTracker


def watch_modules(model: Any, tracker: StorageTracker) -> None:
    """In the forward pass a segment opens as a module starts and as it ends; in the backward pass as the gradient of
    its output is ready, so that the segment "layer" 3 holds the backward of layer 3."""
    for event, layer, module in watched(model):
        module.register_forward_pre_hook(_Opening(tracker, event, layer))
        module.register_forward_hook(_Closing(tracker, event, layer))


def watched(model: Any) -> list[tuple[str, int | None, torch.nn.Module]]:
    base = transformer(model)
    found: list[tuple[str, int | None, torch.nn.Module]] = []
    if (embedding := base.get_input_embeddings()) is not None:
        found.append(("embedding", None, embedding))
    if (layers := decoder_layers(model)) is not None:
        found += [("layer", index, layer) for index, layer in enumerate(layers)]
        if (norm := _final_norm(base, layers)) is not None:
            found.append(("final norm", None, norm))
    if (head := base.get_output_embeddings()) is not None:
        found.append(("head", None, head))
    return found


class _Opening:
    def __init__(self, tracker: StorageTracker, event: str, layer: int | None) -> None:
        self.tracker, self.name, self.layer = tracker, event, layer

    def __call__(self, module: torch.nn.Module, arguments: Any) -> None:
        self.tracker.event(self.name, self.layer)


class _Closing:
    def __init__(self, tracker: StorageTracker, event: str, layer: int | None) -> None:
        self.tracker, self.name, self.layer = tracker, event, layer

    def __call__(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:
        self.tracker.event(f"after {self.name}", self.layer)
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            tensor.register_hook(self._gradient_is_ready)

    def _gradient_is_ready(self, gradient: torch.Tensor) -> None:
        self.tracker.event(self.name, self.layer)


def _final_norm(base: torch.nn.Module, layers: torch.nn.ModuleList) -> torch.nn.Module | None:
    """The last norm among the siblings of the layers."""
    owner = next(module for module in base.modules() if layers in module.children())
    norms = [module for module in owner.children() if "norm" in type(module).__name__.lower()]
    return norms[-1] if norms else None
