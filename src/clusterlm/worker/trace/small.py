"""Small models of the structure of a large one, with sizes drawn at random: what a law can be read off."""

from __future__ import annotations

import copy
import random
from typing import Any

from clusterlm.errors import ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.config import ALIASES
from clusterlm.model.shape import Attention, ModelShape
from clusterlm.planning.laws import place
from clusterlm.planning.sizes import kind_of

FEWEST_LAYERS = 4
MOST_LAYERS = 30
NOT_SIZES = ("rope_scaling", "rope_parameters", "quantization_config", "auto_map", "architectures", "model_max_length")
ABSENT_TOKENS = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}


def shallow(config: dict[str, Any]) -> dict[str, Any]:
    """The config with as few layers as show every kind at the place (first, second, inner, last) where it stands."""
    wanted = placed_kinds(shape_from_config(config, "large"))
    depth = _depth(config)
    for layers in range(FEWEST_LAYERS, min(depth, MOST_LAYERS) + 1):
        try:
            cut = with_depth(config, layers)
            if set(placed_kinds(shape_from_config(cut, "small"))) >= set(wanted):
                return cut
        except ModelError:
            continue
    return with_depth(config, min(depth, MOST_LAYERS))


def placed_kinds(shape: ModelShape) -> list[tuple[str, str]]:
    """Of each layer its place and its kind."""
    return [(place(index, len(shape.layers)), kind_of(layer)) for index, layer in enumerate(shape.layers)]


def with_depth(config: dict[str, Any], layers: int) -> dict[str, Any]:
    depth = _depth(config)
    cut = copy.deepcopy(config)
    for key in ALIASES["num_hidden_layers"]:
        if key in cut:
            cut[key] = layers
    for key, value in cut.items():
        if isinstance(value, list) and len(value) == depth:
            cut[key] = [*value[: layers - 1], value[-1]]
        elif key in ("moe_layers", "mlp_only_layers") and isinstance(value, list):
            cut[key] = [layer for layer in value if layer < layers]
        elif key == "attention_types":
            kinds = value[0][0]
            if layers % len(kinds):
                raise ModelError("whole periods only", where="attention_types")
            cut[key] = [[kinds, layers // len(kinds)]]
    return cut


def _depth(config: dict[str, Any]) -> int:
    return int(next(config[key] for key in ALIASES["num_hidden_layers"] if key in config))


class Dice:
    """Draws sizes for a config: whatever it names is drawn anew, what it does not name stays the architecture's own."""

    def __init__(self, config: dict[str, Any], seed: int, *, free_head: bool, beyond_window: bool) -> None:
        self.config = {key: value for key, value in copy.deepcopy(config).items() if key not in NOT_SIZES}
        self.random = random.Random(seed)
        self.free_head = free_head
        self.beyond_window = beyond_window
        self.shape = shape_from_config(config, "large")

    def draw(self) -> tuple[dict[str, Any], int]:
        """A config, and tokens of a row that its context and its windows allow."""
        tokens = self.random.randint(30, 60)
        self._heads()
        self._set("vocab_size", self.random.randint(70, 250))
        self._set("max_position_embeddings", self.random.randint(64, 140))
        for key in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"):
            self._set(key, 8 * self.random.randint(3, 18))
        self._each("intermediate_size_mlp shared_intermediate_size", 8 * self.random.randint(3, 18))
        self._experts()
        self._latent()
        window = self.random.randint(9, 25) if self.beyond_window else self.random.randint(70, 130)
        for key in ("sliding_window", "attention_chunk_size", "window_size"):
            if self.config.get(key):
                self.config[key] = window
        return {**self.config, **ABSENT_TOKENS}, tokens

    def _heads(self) -> None:
        first = self.shape.layers[0].mixer
        heads = getattr(first, "heads", 1)
        kv_heads = getattr(first, "kv_heads", 1)
        count = self.random.randint(2, 4)
        group = self.random.randint(2, 4) if kv_heads < heads else 1
        if kv_heads == 1 < heads:
            count = 1
        if self.shape.traits.get("position") == "alibi":
            # Other numbers of heads than powers of 2 take more operations.
            count, group = 2 ** self.random.randint(1, 3), min(group, 2)
        if self.config["model_type"] == "codegen":
            count = 4 * self.random.randint(2, 3)  # the projections come in four parts
        size = self._head_size()
        self._set("num_attention_heads", count * group)
        if kv_heads < heads or any(key in self.config for key in ALIASES["num_key_value_heads"]):
            self._set("num_key_value_heads", count)
        hidden = count * group * size
        if self.free_head:
            self.config["head_dim"] = size
            hidden = count * group * 8 * self.random.randint(1, 5)
        self._set("hidden_size", hidden)
        if "word_embed_proj_dim" in self.config:
            self.config["word_embed_proj_dim"] = hidden
        if "rotary_dim" in self.config:
            self.config["rotary_dim"] = size // 4

    def _head_size(self) -> int:
        """Even, and so that the rotated part of it is even too."""
        factor = self.config.get("partial_rotary_factor") or self.config.get("rotary_pct") or 1.0
        step = 40 if factor not in (1.0, 0.5, 0.25) else 8
        return step * self.random.randint(1, 5 if step == 8 else 2)

    def _experts(self) -> None:
        experts = 4 * self.random.randint(2, 3)
        for key in ALIASES["num_experts"]:
            if key in self.config:
                self.config[key] = experts
                if "llama4" not in str(self.config["model_type"]):
                    self._set("num_experts_per_tok", self.random.randint(2, 3))
        if "n_group" in self.config:
            grouped = (self.config["n_group"] or 1) > 1
            self.config |= {"n_group": 2 if grouped else 1, "topk_group": 1}

    def _latent(self) -> None:
        for key in ("q_lora_rank", "kv_lora_rank"):
            if self.config.get(key):
                self.config[key] = 4 * self.random.randint(3, 9)
        for key in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"):
            if self.config.get(key):
                self.config[key] = 8 * self.random.randint(1, 4)
        if "qk_rope_head_dim" not in self.config:
            return
        self.config["num_key_value_heads"] = self.config["num_attention_heads"]
        self.config.pop("head_dim", None)
        mixer = self.shape.layers[0].mixer
        head_size = self.config["qk_rope_head_dim"] + self.config["qk_nope_head_dim"]
        if isinstance(mixer, Attention) and mixer.value_size == mixer.head_size:
            self.config["v_head_dim"] = head_size
        elif self.config["v_head_dim"] == head_size:
            self.config["v_head_dim"] += 8

    def _set(self, size: str, value: int) -> None:
        self._each(" ".join(ALIASES.get(size, (size,))), value)

    def _each(self, keys: str, value: int) -> None:
        for key in keys.split():
            if self.config.get(key) is not None:
                self.config[key] = value
