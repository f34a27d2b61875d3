"""clusterlm plan of a model that neither the cache nor the catalogue has: its config.json is fetched, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.hub import Hub, running_hub

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
PARAMETERS = 64_000 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
FILES = {
    "some/new": {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"never to be fetched"},
    "some/new-GPTQ": {
        "config.json": json.dumps(CONFIG).encode(),
        "quantize_config.json": json.dumps({"bits": 4, "group_size": 32}).encode(),
    },
    "some/adapter": {"adapter_config.json": b'{"base_model_name_or_path": "openai-community/gpt2"}'},
    "some/gguf": {"model.gguf": b"GGUF"},
}
REFUSED = {
    "meta-llama/Llama-9-8B": (401, "GatedRepo"),
    "meta-llama/Llama-9-70B": (403, "GatedRepo"),
    "some/missing": (404, "RepoNotFound"),
    "some/broken": (500, ""),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(FILES, REFUSED) as hub:
        yield hub


def plan(name: str, hub_url: str, home: Path, *options: str, **variables: str) -> CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads these variables when it is imported."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **variables}
    command = [sys.executable, "-m", "clusterlm", "plan", name, "--gpu", "t4", *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_config_alone_is_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        result = plan("some/new", hub.url, tmp_path, "--json")
        assert (result.returncode, result.stderr) == (0, "")
        assert json.loads(result.stdout)["model"]["parameters"] == PARAMETERS
    assert hub.asked == ["some/new/config.json"]
    assert plan("some/new", hub.url, tmp_path, HF_HUB_OFFLINE="1").returncode == 0


def test_autogptqs_own_file_is_fetched_too(hub: Hub, tmp_path: Path) -> None:
    result = plan("some/new-GPTQ", hub.url, tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["model"]["quantisation"]["group_size"] == 32


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("meta-llama/Llama-9-8B", ["only registered users", "hf auth login", "meta-llama/Llama-3.1-8B"]),
        ("meta-llama/Llama-9-70B", ["only registered users", "hf auth login", "meta-llama/Llama-3.1-70B"]),
        ("meta-llama/Lama-3.1-8B", ["has no such model", "did you mean meta-llama/Llama-3.1-8B"]),
        ("some/missing", ["has no such model", "check the spelling"]),
        ("some/broken", ["the hub answers with error 500", "hf download some/broken config.json"]),
        ("some/gguf", ["has no config.json on the hub"]),
        ("some/adapter", ["LoRA adapter", "plan for its base model: openai-community/gpt2"]),
        ("some/bad name", ["neither a folder nor a model id"]),
    ],
)
def test_what_the_hub_refuses_is_one_clear_sentence(hub: Hub, tmp_path: Path, name: str, says: list[str]) -> None:
    refused(plan(name, hub.url, tmp_path), says)


def test_offline_nothing_is_asked_and_the_nearest_names_are_offered(hub: Hub, tmp_path: Path) -> None:
    result = plan("meta-llama/Llama-3.1-8C", hub.url, tmp_path, HF_HUB_OFFLINE="1")
    refused(result, ["HF_HUB_OFFLINE", "did you mean meta-llama/Llama-3.1-8B"])


def test_where_no_hub_answers_the_nearest_names_are_offered_at_once(tmp_path: Path) -> None:
    with running_hub({}, {}) as closed:
        pass
    refused(plan("meta-llama/Llama-3.1-8C", closed.url, tmp_path), ["cannot be reached", "meta-llama/Llama-3.1-8B"])


def refused(result: CompletedProcess[str], says: list[str]) -> None:
    assert (result.returncode, result.stdout) == (1, "")
    error, *others = result.stderr.splitlines()
    assert error.startswith("error: ") and len(others) <= 1
    for words in says:
        assert words in result.stderr
