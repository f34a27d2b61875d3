"""Checkpoints that are already quantised: what `quantization_config` says, and the bytes that were measured."""

from __future__ import annotations

from typing import Any

import pytest

from clusterlm.errors import ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.find import find_model
from clusterlm.model.shape import Quantisation
from clusterlm.planning.weights import scheme_of, weight_sizes

GIB = 2**30
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
MIXTURE = {**MODEL, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
ENDS = ("embedding", "lm_head")
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}


def quantised(settings: dict[str, Any], model: dict[str, Any] = MODEL) -> Quantisation:
    found = shape_from_config({**model, "quantization_config": settings}, "m").quantisation
    assert found
    return found


def compressed(weights: dict[str, Any], **settings: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"], **settings}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, ("gptq", 4, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, ("gptq", 8, None)),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, ("awq", 4, 64)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, ("awq", 4, 128)),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_awq"}, ("awq", 4, 128)),
        ({"quant_method": "fp8", "activation_scheme": "static"}, ("fp8", 8, None)),
        ({"quant_method": "fbgemm_fp8"}, ("fp8", 8, None)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("fp8", 8, None)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", 4, 16)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, ("int8", 8, None)),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, ("nf4", 4, 64)),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, ("nf4-dq", 4, 64)),
        (compressed(INT8), ("compressed-int", 8, None)),
        (
            compressed({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}),
            ("compressed-int", 4, 128),
        ),
        (compressed({"num_bits": 8, "type": "float", "strategy": "channel"}), ("fp8", 8, None)),
        (compressed({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}), ("nvfp4", 4, 16)),
    ],
)
def test_each_way_of_storing_is_read(settings: dict[str, Any], expected: tuple[str, int, int | None]) -> None:
    found = quantised(settings)
    assert (found.method, found.bits, found.group_size) == expected
    assert found.skipped == ENDS


def test_blocks_of_fp8_have_two_edges() -> None:
    found = quantised({"quant_method": "fp8", "weight_block_size": [128, 64]})
    assert (found.group_rows, found.group_size) == (128, 64)


def test_a_section_of_the_text_model_counts_and_so_does_the_older_name() -> None:
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128}
    vision = {"model_type": "pixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    text = {**MODEL, "model_type": "mistral", "num_key_value_heads": 4, "quantization_config": settings}
    inside = shape_from_config({"model_type": "mistral3", "text_config": text, "vision_config": vision}, "m")
    assert inside.quantisation
    assert inside.quantisation.method == "awq"
    older = shape_from_config({**MODEL, "compression_config": compressed(INT8)}, "m")
    assert older.quantisation
    assert older.quantisation.method == "compressed-int"


def test_patterns_and_modules_that_are_spared_become_names_of_linears() -> None:
    spared = quantised(compressed(INT8, ignore=["lm_head", "re:.*self_attn.*", "model.layers.1.mlp.down_proj"]))
    assert spared.skipped == (
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.o_proj",
        "layers.1.mlp.down_proj",
        *ENDS,
    )
    assert spared.spares("mlp.down_proj", 1)
    assert not spared.spares("mlp.down_proj", 0)


def test_each_layers_own_entry_for_the_router_is_one_name() -> None:
    # So do Qwen3-30B-A3B-FP8 and its kin list it.
    listed = ["lm_head", *[f"model.layers.{layer}.mlp.gate" for layer in range(2)]]
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": listed}
    assert quantised(settings, MIXTURE).skipped == ("router.gate", *ENDS)


def test_a_gate_that_is_spared_is_no_gate_proj() -> None:
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["gate"]}
    assert quantised(settings, MIXTURE).skipped == ("router.gate", *ENDS)


def test_a_vision_towers_modules_spare_nothing_of_the_text_model() -> None:
    ignored = ["re:.*lm_head", "re:vision_tower.*", "model.vision_tower.transformer.layers.0.attention.q_proj"]
    assert quantised(compressed(INT8, ignore=ignored)).skipped == ENDS


def test_a_head_that_the_file_does_not_spare_is_quantised() -> None:
    assert "lm_head" not in quantised(compressed(INT8, ignore=[])).skipped


@pytest.mark.parametrize("method", ["hqq", "aqlm", "quip", "eetq"])
def test_a_method_of_unknown_size_is_refused_by_name(method: str) -> None:
    with pytest.raises(ModelError, match=method):
        quantised({"quant_method": method, "bits": 4})


def test_several_formats_in_one_checkpoint_are_refused() -> None:
    groups = {
        "group_0": {"targets": ["re:.*mlp.*"], "weights": {**INT8, "num_bits": 4}},
        "group_1": {"targets": ["re:.*attn.*"], "weights": INT8},
    }
    with pytest.raises(ModelError, match="several formats: compressed-int of 4 bits and compressed-int of 8 bits"):
        quantised({"quant_method": "compressed-tensors", "config_groups": groups})


# GiB of weights as vLLM logs them: github.com/llm-d-incubation/llm-d-planner for the 70B on two GPUs, and transformers'
# peak of https://qwen.readthedocs.io/en/latest/getting_started/speed_benchmark.html less cache and cuBLAS workspace
# (Qwen3-1.7B-FP8 at 6144 + 2048 tokens: 3462 MiB - 8192 x 112 KiB - 32 MiB = 2534 MiB).
@pytest.mark.parametrize(
    ("name", "measured_gib"),
    [("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", 2 * 33.88), ("Qwen/Qwen3-1.7B-FP8", 2534 / 1024)],
)
def test_weights_take_what_was_measured(name: str, measured_gib: float) -> None:
    shape = find_model(name)
    total = weight_sizes(shape, "bfloat16", scheme_of(shape, None)).total
    assert total / GIB == pytest.approx(measured_gib, rel=0.005)


# Sizes of the weight files on the models' pages, in decimal GB.
@pytest.mark.parametrize(
    ("name", "file_gb"),
    [
        ("openai/gpt-oss-20b", 13.76),
        ("openai/gpt-oss-120b", 65.25),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", 5.57),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", 5.58),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", 9.08),
    ],
)
def test_weights_take_what_their_files_do(name: str, file_gb: float) -> None:
    shape = find_model(name)
    assert weight_sizes(shape, "bfloat16", scheme_of(shape, None)).total / 1e9 == pytest.approx(file_gb, rel=0.01)


def test_smaller_groups_cost_more_scales() -> None:
    def layer_bytes(group_size: int) -> int:
        settings = {"quant_method": "awq", "bits": 4, "group_size": group_size}
        shape = shape_from_config({**MODEL, "quantization_config": settings}, "m")
        return weight_sizes(shape, "float16", scheme_of(shape, None)).layers[0]

    # 4 x 256 x 256 + 3 x 256 x 512 weights; a group has 2 bytes of scale and half a byte of zero.
    weights = 4 * 256 * 256 + 3 * 256 * 512
    assert layer_bytes(32) - layer_bytes(128) == weights * 2.5 * (1 / 32 - 1 / 128)


def test_a_quantised_checkpoint_that_names_no_type_is_not_taken_for_float32() -> None:
    assert find_model("openai/gpt-oss-20b").dtype == "bfloat16"  # its embedding and attention, by the hub's file list
