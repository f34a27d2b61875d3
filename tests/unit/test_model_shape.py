"""From config.json to sizes: the counts that the models' authors publish, and clear errors where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import ModelError
from clusterlm.model.architectures import shape_from_config
from clusterlm.model.find import find_model
from clusterlm.model.shape import Attention, Recurrent

# Counts on the models' pages at https://huggingface.co/<id> ("model size"), to the last parameter.
PUBLISHED = {
    "openai-community/gpt2": 124_439_808,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "EleutherAI/gpt-j-6b": 6_050_882_784,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "facebook/opt-13b": 12_853_473_280,
    "bigscience/bloom": 176_247_271_424,
    "bigscience/bloomz-7b1": 7_069_016_064,
    "bigcode/gpt_bigcode-santacoder": 1_124_886_528,
    # The page counts the tied head, 65024 x 4544, once more.
    "tiiuae/falcon-7b": 7_217_189_760 - 65_024 * 4_544,
    "huggyllama/llama-65b": 65_285_660_672,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-4b-it": 4_300_079_472,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_153_344,
    "Qwen/Qwen1.5-14B-Chat": 14_167_290_880,
    "Qwen/Qwen2-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "meta-llama/Llama-4-Scout-17B-16E": 108_641_793_536,
    "openai/gpt-oss-20b": 20_914_757_184,
    "state-spaces/mamba-2.8b-hf": 2_768_345_600,
    "tiiuae/falcon-mamba-7b": 7_272_665_088,
    "google/flan-t5-xl": 2_849_757_184,
    "google/mt5-small": 300_176_768,
    "google-bert/bert-base-uncased": 109_482_240,
    "answerdotai/ModernBERT-base": 149_014_272,
    "nomic-ai/nomic-embed-text-v1.5": 136_731_648,
}

# Billions, total and for each token, as the authors' papers and cards print them.
ACTIVE = {
    "deepseek-ai/DeepSeek-V3": (671, 37),  # arXiv:2412.19437
    "deepseek-ai/DeepSeek-V2": (236, 21),  # arXiv:2405.04434
    "mistralai/Mixtral-8x7B-v0.1": (46.7, 12.9),  # mistral.ai/news/mixtral-of-experts
    "mistralai/Mixtral-8x22B-v0.1": (141, 39),  # mistral.ai/news/mixtral-8x22b
    "Qwen/Qwen3-30B-A3B": (30.5, 3.3),
    "Qwen/Qwen3-235B-A22B": (235, 22),
    "Qwen/Qwen1.5-MoE-A2.7B": (14.3, 2.7),
    "Qwen/Qwen2-57B-A14B": (57.4, 14.2),
    "microsoft/Phi-3.5-MoE-instruct": (41.9, 6.6),
    "allenai/OLMoE-1B-7B-0924": (6.9, 1.3),  # arXiv:2409.02060
    "moonshotai/Kimi-K2-Instruct": (1026, 32.9),  # arXiv:2507.20534, table 2: 1.04 T and 32.6 B
    "LiquidAI/LFM2-8B-A1B": (8.3, 1.5),
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_the_count_is_the_published_one(name: str, published: int) -> None:
    shape = find_model(name)
    assert shape.parameters == published
    assert sum(shape.parameters_by_part().values()) == published


@pytest.mark.parametrize(("name", "billions"), ACTIVE.items())
def test_a_mixture_has_the_published_total_and_active_parameters(name: str, billions: tuple[float, float]) -> None:
    shape = find_model(name)
    assert shape.parameters / 1e9 == pytest.approx(billions[0], rel=0.005)
    assert shape.active_parameters / 1e9 == pytest.approx(billions[1], rel=0.05)


def test_a_hybrid_knows_which_layers_keep_keys_and_values() -> None:
    # Qwen's card: 12 x (3 x gated DeltaNet, 1 x gated attention).
    mixers = [type(layer.mixer) for layer in find_model("Qwen/Qwen3-Next-80B-A3B-Instruct").layers]
    assert mixers == [Recurrent, Recurrent, Recurrent, Attention] * 12


def test_gemma_3_sees_everything_in_each_sixth_layer() -> None:
    # arXiv:2503.19786: five local layers of 1024 tokens for each global one.
    windows = [layer.mixer.window for layer in find_model("google/gemma-3-4b-it").layers[:12]]  # type: ignore[union-attr]
    assert windows == [1024, 1024, 1024, 1024, 1024, None] * 2


def test_latent_attention_keeps_576_numbers_a_token() -> None:
    # arXiv:2412.19437: a latent of 512 and a rotary key of 64.
    mixer = find_model("deepseek-ai/DeepSeek-V3").layers[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.latent_elements_per_token == 576


def test_t5_has_an_encoder_and_a_decoder_that_crosses_to_it() -> None:
    shape = find_model("google/byt5-small")  # arXiv:2105.13626: 12 encoder layers, 4 decoder layers
    assert (len(shape.encoder_layers), len(shape.layers)) == (12, 4)
    assert all(layer.cross_attention for layer in shape.layers)
    assert not any(layer.cross_attention for layer in shape.encoder_layers)


# Tokens on the models' pages: the table has two rows more, for the padding token and what comes before it.
@pytest.mark.parametrize(
    ("name", "tokens", "rows"),
    [
        ("FacebookAI/roberta-base", 512, 514),
        ("FacebookAI/xlm-roberta-base", 512, 514),
        ("BAAI/bge-m3", 8192, 8194),
        ("sentence-transformers/all-mpnet-base-v2", 512, 514),
        ("google-bert/bert-base-uncased", 512, 512),
    ],
)
def test_robertas_positions_begin_after_its_padding_and_its_table_has_them_all(
    name: str, tokens: int, rows: int
) -> None:
    shape = find_model(name)
    assert shape.context_tokens == tokens
    assert shape.embedding_parameters == (shape.vocabulary_size + rows) * shape.hidden_size


ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**LLAMA, "hidden_size": 0}, "hidden_size = 0"),
        ({**LLAMA, "hidden_size": -64}, "hidden_size = -64"),
        ({**LLAMA, "vocab_size": "many"}, "vocab_size = 'many'"),
        ({**LLAMA, "num_attention_heads": 0}, "num_attention_heads = 0"),
        ({**LLAMA, "num_attention_heads": 5, "num_key_value_heads": 5}, "hidden_size = 64, which num_attention_heads"),
        ({**LLAMA, "num_key_value_heads": 3}, "num_key_value_heads = 3 does not divide"),
        ({**MIXTRAL, "num_experts_per_tok": 8}, "num_experts_per_tok = 8, more than num_local_experts = 4"),
        ({**LLAMA, "model_type": "qwen3_next", "layer_types": ["full_attention"]}, "lists 1 layer_types"),
        ({key: LLAMA[key] for key in LLAMA if key != "intermediate_size"}, "lacks intermediate_size"),
        ({**ROBERTA, "max_position_embeddings": 2}, "max_position_embeddings = 2, of which 2 get no token"),
        ({"model_type": "llama"}, "lacks hidden_size, vocab_size, num_hidden_layers"),
        ({key: LLAMA[key] for key in LLAMA if key != "model_type"}, "lacks model_type"),
    ],
)
def test_an_impossible_config_is_refused_by_the_name_of_its_field(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError) as refusal:
        shape_from_config(config, "m")
    assert says in str(refusal.value)


def test_head_dim_makes_heads_possible_that_do_not_divide_the_width() -> None:
    shape = shape_from_config({**LLAMA, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}, "m")
    assert shape.layers[0].linears[0].outputs == 96


def test_an_unknown_architecture_is_refused_with_the_nearest_name_and_what_the_trace_can_do() -> None:
    with pytest.raises(ModelError) as refusal:
        shape_from_config({**LLAMA, "model_type": "lama"}, "m")
    assert "'lama'" in str(refusal.value)
    assert "did you mean 'llama'" in str(refusal.value)
    assert "--trace" in str(refusal.value)


def test_a_catalogue_entry_is_found_in_less_than_thirty_milliseconds() -> None:
    import time

    find_model("openai-community/gpt2")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        find_model("deepseek-ai/DeepSeek-V3")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03


def test_a_folder_is_its_config_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    # Two tables of 100 x 64; a layer: 2 x 64 x 64 + 2 x 64 x 32 attention, 3 x 64 x 128 MLP, two norms; one last norm.
    assert find_model(str(tmp_path)).parameters == 2 * 6400 + 2 * (12_288 + 24_576 + 128) + 64
