"""Where a model is looked for: a folder, the Hugging Face cache, the catalogue; and what weight files add to it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from clusterlm.errors import ModelError
from clusterlm.model.find import find_model

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
TENSORS = {
    "model.embed_tokens.weight": [10, 8],
    **{f"model.layers.0.self_attn.{name}_proj.weight": [8, 8] for name in "qkvo"},
    **{f"model.layers.0.mlp.{name}_proj.weight": [16, 8] for name in ("gate", "up", "down")},
    "model.layers.0.input_layernorm.weight": [8],
    "model.layers.0.post_attention_layernorm.weight": [8],
    "model.norm.weight": [8],
}
PARAMETERS = 80 + 4 * 64 + 3 * 128 + 3 * 8


def write_config(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_header(file: Path, tensors: dict[str, list[int]], dtype: str = "BF16") -> None:
    """A safetensors file of which only the header is there: nothing else is read."""
    header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


def in_cache(name: str, revision: str = "abc", main: str | None = "abc") -> Path:
    """In tests, HF_HOME is a folder of their own (tests/conftest.py)."""
    import os

    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    if main:
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(main)
    return repository / "snapshots" / revision


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_the_headers_type_and_count_have_the_last_word(tmp_path: Path) -> None:
    write_header(write_config(tmp_path) / "model.safetensors", TENSORS)
    shape = find_model(str(tmp_path))
    assert (shape.parameters, shape.dtype) == (PARAMETERS, "bfloat16")
    assert "as config.json makes them" in shape.source


def test_more_in_the_files_than_in_the_config_is_counted_and_said(tmp_path: Path) -> None:
    write_header(write_config(tmp_path) / "model.safetensors", {**TENSORS, "model.extra.weight": [5, 5]})
    shape = find_model(str(tmp_path))
    assert shape.parameters == PARAMETERS + 25
    assert "25 more than config.json makes" in shape.source


def test_what_the_class_does_not_keep_is_not_counted(tmp_path: Path) -> None:
    unused = {
        "lm_head.weight": [10, 8],  # tied
        "model.layers.0.self_attn.rotary_emb.inv_freq": [2],
        "model.layers.1.embed_tokens.weight": [10, 8],  # DeepSeek's predictor of the token after next
    }
    write_header(write_config(tmp_path) / "model.safetensors", {**TENSORS, **unused})
    assert find_model(str(tmp_path)).parameters == PARAMETERS


def test_shards_count_only_when_all_are_there(tmp_path: Path) -> None:
    names = list(TENSORS)
    shards = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (write_config(tmp_path) / "model.safetensors.index.json").write_text(json.dumps(index))
    write_header(tmp_path / "one.safetensors", {name: TENSORS[name] for name in names[:5]})
    assert "files hold" not in find_model(str(tmp_path)).source
    write_header(tmp_path / "two.safetensors", {name: TENSORS[name] for name in names[5:]})
    assert f"files hold {PARAMETERS:,}" in find_model(str(tmp_path)).source


def test_packed_numbers_are_no_parameters(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    write_config(tmp_path, {**CONFIG, "quantization_config": settings})
    write_header(tmp_path / "model.safetensors", {"model.layers.0.mlp.up_proj.qweight": [1, 16]}, "I32")
    assert find_model(str(tmp_path)).parameters == PARAMETERS


def test_autogptqs_own_file_counts_where_config_json_is_silent(tmp_path: Path) -> None:
    (write_config(tmp_path) / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32}))
    quantisation = find_model(str(tmp_path)).quantisation
    assert quantisation
    assert (quantisation.method, quantisation.group_size) == ("gptq", 32)


@pytest.mark.usefixtures("hub_cache")
def test_the_cache_wins_over_the_catalogue() -> None:
    write_config(in_cache("openai-community/gpt2"))
    assert find_model("openai-community/gpt2").parameters == PARAMETERS


@pytest.mark.usefixtures("hub_cache")
def test_a_cache_without_config_json_is_no_answer() -> None:
    in_cache("openai-community/gpt2").mkdir(parents=True)
    assert find_model("openai-community/gpt2").parameters == 124_439_808


@pytest.mark.usefixtures("hub_cache")
def test_the_only_revision_counts_where_main_was_never_fetched() -> None:
    write_config(in_cache("some/model", revision="v1", main=None))
    assert find_model("some/model").parameters == PARAMETERS


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "cannot be read as JSON"),
        ({"config.json": "[]"}, "is not a JSON object"),
        ({"config.json": '{"model_type": "llama", "hidden_size": 8}'}, "lacks vocab_size, num_hidden_layers"),
        ({"adapter_config.json": '{"base_model_name_or_path": "a/b"}'}, "plan for its base model: a/b"),
        ({"params.json": "{}"}, "convert it to the Hugging Face layout"),
    ],
)
def test_a_folder_that_is_no_model_says_why(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError) as refusal:
        find_model(str(tmp_path))
    assert says in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, struct.pack("<Q", 4) + b"nope"])
def test_a_damaged_weight_file_is_named(tmp_path: Path, content: bytes) -> None:
    (write_config(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="no safetensors file, or damaged"):
        find_model(str(tmp_path))


@pytest.mark.usefixtures("hub_cache")
def test_an_unknown_name_is_answered_with_the_nearest_and_what_to_do() -> None:
    with pytest.raises(ModelError) as refusal:
        find_model("meta-lama/Llama-3.1-8B-Instuct")
    assert "did you mean meta-llama/Llama-3.1-8B-Instruct" in str(refusal.value)
    assert "hf download" in str(refusal.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_path_that_leads_nowhere_is_no_model_id(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        find_model(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        find_model(str(write_config(tmp_path) / "config.json"))
