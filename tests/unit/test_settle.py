"""What the libraries choose where the user leaves it open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clusterlm.cluster import find_gpu
from clusterlm.model.find import find_model
from clusterlm.planning.settle import settle_precision
from clusterlm.planning.wishes import Wishes


# vLLM: _resolve_auto_dtype in vllm/config/model.py, supported_dtypes in vllm/platforms/cuda.py (bfloat16 from Ampere).
@pytest.mark.parametrize(
    ("model", "stored", "gpu", "vllm", "transformers"),
    [
        ("gpt2", "float32", "a100-40", "bfloat16", "float32"),
        ("gpt2", "float32", "v100-32", "float16", "float32"),
        ("gpt2", "float32", "mi250x", "bfloat16", "float32"),
        ("gpt2", "float64", "a100-40", "bfloat16", "bfloat16"),
        ("gpt2", "float16", "a100-40", "float16", "float16"),
        ("gpt2", "bfloat16", "a100-40", "bfloat16", "bfloat16"),
        ("gpt2", "bfloat16", "v100-32", "float16", "float16"),
        ("google/gemma-2-2b", "float32", "a100-40", "bfloat16", "float32"),
        ("google/gemma-2-2b", "float16", "a100-40", "bfloat16", "float16"),
        ("google/gemma-2-2b", "bfloat16", "v100-32", "float32", "float16"),
        ("google/gemma-3-4b-it", "bfloat16", "v100-32", "float32", "float16"),
    ],
)
def test_an_engine_computes_in_the_type_that_it_has_for_the_checkpoint(
    model: str, stored: str, gpu: str, vllm: str, transformers: str
) -> None:
    shape, card = replace(find_model(model), dtype=stored), find_gpu(gpu)
    settled = [
        settle_precision(shape, card, Wishes(task="generate", engine=engine), "none")
        for engine in ("vllm", "transformers")
    ]
    assert [one.dtype for one in settled] == [vllm, transformers]
    assert not any(one.autocast for one in settled)


def test_the_type_that_is_asked_for_stays() -> None:
    wishes = Wishes(task="generate", engine="vllm", dtype="float32")
    assert settle_precision(find_model("gpt2"), find_gpu("a100-40"), wishes, "none").dtype == "float32"
