"""Mixtures of experts: a router, experts that each token visits a few of, and experts that all tokens share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clusterlm.model.blocks import GATED_MLP, FeedForwardPart, Mlp
from clusterlm.model.config import Config, Flag
from clusterlm.model.shape import FeedForward, Linear

SHARED_MLP = Mlp(part="shared")


def no_shared_expert(config: Config) -> int:
    return 0


@dataclass(frozen=True)
class Mixture:
    """Experts whose matrices transformers keeps fused, one tensor for all of a layer."""

    router: str = "gate"
    router_bias: Flag = False
    expert_bias: Flag = False
    width: str = "moe_intermediate_size"
    shared_width: Callable[[Config], int] = no_shared_expert
    shared: Mlp = SHARED_MLP
    shared_gate: str = ""
    """Module that weighs the shared expert: one number for each token."""
    correction: bool = False
    """A learned bias for each expert, kept outside the router."""

    def build(self, config: Config, layer: int) -> FeedForwardPart:
        experts, width = config.integer("num_experts"), config.integer(self.width)
        shared_width = self.shared_width(config)
        widths = FeedForward(
            intermediate_size=0,
            experts=experts,
            active_experts=config.integer("num_experts_per_tok"),
            expert_size=width,
            shared_size=shared_width,
        )
        linears = self._routed(config, experts, width) + self._shared(config, shared_width)
        return FeedForwardPart(widths, linears, experts if self.correction else 0)

    def _routed(self, config: Config, experts: int, width: int) -> tuple[Linear, ...]:
        hidden, bias = config.hidden_size, config.flag(self.expert_bias)
        return (
            Linear(f"router.{self.router}", hidden, experts, config.flag(self.router_bias)),
            Linear("experts.gate_up_proj", hidden, 2 * width, bias, copies=experts),
            Linear("experts.down_proj", width, hidden, bias, copies=experts),
        )

    def _shared(self, config: Config, width: int) -> tuple[Linear, ...]:
        if not width:
            return ()
        gate = (Linear(f"shared.{self.shared_gate}", config.hidden_size, 1),) if self.shared_gate else ()
        return self.shared.linears(config, width) + gate


@dataclass(frozen=True)
class SomeLayersSparse:
    """Mixtures in some layers, dense MLPs in the others."""

    mixture: Mixture
    is_sparse: Callable[[Config, int], bool]
    dense: Mlp = GATED_MLP

    def build(self, config: Config, layer: int) -> FeedForwardPart:
        return (self.mixture if self.is_sparse(config, layer) else self.dense).build(config, layer)


def after_dense_layers(config: Config, layer: int) -> bool:
    return layer >= config.integer("num_dense_layers")


def every_sparse_step(config: Config, layer: int) -> bool:
    """Qwen's rule: each n-th layer, but for those that the file lists as dense."""
    return layer not in config.items("mlp_only_layers") and (layer + 1) % config.integer("decoder_sparse_step") == 0


def shared_experts(config: Config) -> int:
    """Shared experts counted in expert widths, as one MLP."""
    return (config.optional_integer("num_shared_experts") or 0) * config.integer("moe_intermediate_size")


def shared_width(key: str) -> Callable[[Config], int]:
    """The shared expert's width under a key of its own."""

    def width(config: Config) -> int:
        return config.integer(key)

    return width
