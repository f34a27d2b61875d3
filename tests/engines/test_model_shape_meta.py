"""Every architecture of the table has, from its config.json alone, the parameters that transformers' own class has."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from clusterlm.model.architectures import known_architectures, shape_from_config
from clusterlm.model.encoder_decoder import ENCODER_DECODERS
from clusterlm.model.encoders import ENCODERS
from clusterlm.model.shape import ModelShape
from clusterlm.model.wrappers import WRAPPERS

# Where the configuration class alone makes no model that anybody would publish.
SETTINGS: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 8},
    "glm4_moe": {"head_dim": 128, "attention_bias": True, "use_qk_norm": True},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "pos_att_type": "p2c|c2p",
        "conv_kernel_size": 3,
    },
    "gemma3": {"vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False}},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 6, "layer_types": ["conv", "conv", "full_attention"] * 2},
}
SHALLOW = 6
LAYER = re.compile(r"(?:layers|layer|h|block|blocks)\.\d+\.")
NOT_A_MATRIX = ("A_log", "relative_attention_bias", "conv1d", "vision", "visual", "embeddings")
EXPERTS = re.compile(r"\.experts\.|block_sparse_moe\.(input|output)_linear")


def architectures_of_transformers() -> list[str]:
    return [name for name in known_architectures() if name in CONFIG_MAPPING]


def shallow_config(name: str) -> Any:
    settings = dict(SETTINGS.get(name, {}))
    config = AutoConfig.for_model(name, **settings)
    text = config.get_text_config()
    key = "num_hidden_layers" if text is config else None
    if key and name not in ENCODER_DECODERS and "attention_types" not in config.to_dict():
        real = config.attribute_map.get(key, key)
        config = AutoConfig.for_model(name, **{real: SHALLOW, **settings})
    return config


def on_meta(name: str, config: Any) -> PreTrainedModel:
    auto = AutoModelForCausalLM
    if name in WRAPPERS:
        auto = AutoModelForImageTextToText
    if name in ENCODERS:
        auto = AutoModel
    if name in ENCODER_DECODERS:
        auto = AutoModelForSeq2SeqLM
    with torch.device("meta"):
        return auto.from_config(config)


def parameters_of_parts(model: PreTrainedModel) -> dict[str, int]:
    """Of the class itself: the whole, the token table, a head of its own, experts, all other matrices in layers."""
    named = dict(model.named_parameters())
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    own_head = head is not None and head.weight is not table.weight
    return {
        "all": sum(one.numel() for one in named.values()),
        "head": sum(one.numel() for one in head.parameters() if own_head or one is not table.weight) if head else 0,
        "experts": sum(one.numel() for name, one in named.items() if EXPERTS.search(name)),
        "matrices": sum(
            one.numel()
            for name, one in named.items()
            if one.dim() == 2 and LAYER.search(name) and not any(word in name for word in NOT_A_MATRIX)
            if not EXPERTS.search(name)
        ),
    }


def parameters_by_shape(shape: ModelShape) -> dict[str, int]:
    parts = shape.parameters_by_part()
    return {
        "all": shape.parameters,
        "head": parts["head"],
        "experts": parts["experts"],
        "matrices": sum(
            linear.weights
            for layer in shape.all_layers()
            for linear in layer.linears
            if not linear.name.startswith("experts.")
        ),
    }


@pytest.mark.parametrize("name", architectures_of_transformers())
def test_parameters_equal_those_of_the_class_in_transformers(name: str) -> None:
    config = shallow_config(name)
    shape = shape_from_config(config.to_dict(), name)
    assert parameters_by_shape(shape) == parameters_of_parts(on_meta(name, config))


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra"])
def test_an_encoder_takes_as_many_tokens_as_its_shape_says(name: str, padding: int) -> None:
    """And not one more: RoBERTa's table of 20 positions serves 18 tokens, where the padding token is 1 as published."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 20, "pad_token_id": padding}
    config = AutoConfig.for_model(name, **sizes)
    context = shape_from_config(config.to_dict(), name).context_tokens
    assert context is not None
    model = AutoModel.from_config(config).eval()
    model(input_ids=torch.full((1, context), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, context + 1), 5))
