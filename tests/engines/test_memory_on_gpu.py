"""benchmarks.memory_on_gpu on the CPU, without torch's CUDA counters; and what it measured on GPUs, against today's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory_on_gpu
from benchmarks.memory_cases import MODELS, Case, cases, phases_of, predicted, request_of, workspace_bytes
from benchmarks.memory_step import measure
from clusterlm.cluster import Gpu
from clusterlm.planning.coefficients import cublas_bytes
from clusterlm.worker.trace import trace

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LARGEST_DIFFERENCE = 0.05
"""Of a kept measurement: the allocator rounds, and kernels of a GPU have workspaces of their own."""
MOST_BYTES_TRACED = 2 * 2**30
"""Of the kept measurements, the small ones are traced anew here: a trace takes seconds."""


@pytest.fixture
def tiny_model(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(TINY))
    return str(file)


# ------------------------------------------------------------------------------------------------------- measuring
@pytest.mark.parametrize(
    "settings",
    [
        {"task": "generate", "new_tokens": 5},
        {"task": "train", "dtype": "autocast", "checkpointing": True, "batch": 2},
        {"task": "train", "method": "lora", "batch": 2},
    ],
    ids=str,
)
def test_the_steps_that_are_measured_are_those_that_are_traced(tiny_model: str, settings: dict[str, Any]) -> None:
    case = Case(tiny_model, tokens=48, **settings)
    assert measure(case, "cpu").phases == trace(request_of(case)).phases


def test_four_bits_take_less_than_sixteen(tiny_model: str) -> None:
    pytest.importorskip("bitsandbytes")
    sixteen, four = (
        max(measure(Case(tiny_model, "train", method, True, tokens=48), "cpu").phases.values())
        for method in ("lora", "qlora")
    )
    # 73,728 elements in 14 matrices: 1.5 bytes less each, but a scale for each 64 and a table of 16 for each matrix.
    assert sixteen - four == 1.5 * 73_728 - 4 * 73_728 / 64 - 14 * 16 * 4


def test_a_call_measures_until_its_minutes_are_over_and_the_next_one_goes_on(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "cpu", "--model", tiny_model, "--tokens", "48", "--results", str(tmp_path)]
    memory_on_gpu.main([*options, "--minutes", "0.0001"])
    told = capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "cpu" / "memory.json").read_text())["entries"]
    assert entry["case"]["task"] == "generate"
    assert entry["measured"]["phases"] == entry["traced"]
    assert "minutes are over" in told and "trace: median 0.00%, largest 0.00% of 1" in told
    memory_on_gpu.main([*options, "--minutes", "0"])
    assert "generate bfloat16 " in capsys.readouterr().out


def test_a_gpu_that_the_planner_does_not_list_is_known_by_what_it_says() -> None:
    told = {"gpu": "NVIDIA H200", "memory_bytes": 140 * 2**30, "compute_capability": [9, 0], "vendor": "nvidia"}
    gpu = memory_on_gpu.gpu_of(told)
    assert (gpu.key, gpu.bfloat16) == ("nvidia-h200", True)
    assert workspace_bytes(Case(MODELS[0], "train"), gpu) == cublas_bytes((9, 0), handles=2)


def test_cases_begin_with_the_smallest(tiny_model: str) -> None:
    gpu, _ = memory_on_gpu.this_gpu("cpu")
    waiting = memory_on_gpu.ordered(MODELS, 1024, gpu)
    needs = [predicted(case, gpu).allocated for case in waiting]
    assert needs == sorted(needs)
    assert len(waiting) == len(set(waiting)) == len(list(cases(MODELS)))


# ------------------------------------------------------------------------------------------------ what was measured
def kept() -> list[tuple[str, dict[str, Any], Gpu]]:
    found = []
    for file in sorted(memory_on_gpu.RESULTS.glob("*/memory.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        gpu = memory_on_gpu.gpu_of(content["conditions"])
        found += [(file.parent.name, entry, gpu) for entry in content["entries"]]
    return [one for one in found if one[1]["measured"]["status"] == "measured"]


def test_the_closed_form_holds_on_every_kept_measurement() -> None:
    wrong = []
    for place, entry, gpu in kept():
        case, peak = Case(**entry["case"]), max(entry["measured"]["phases"].values())
        error = max(phases_of(predicted(case, gpu)).values()) / peak - 1
        if abs(error) > LARGEST_DIFFERENCE:
            wrong.append(f"{place}, {case.model}, {case.title}: {error:+.2%}")
    assert wrong == []


def test_the_trace_holds_on_small_kept_measurements() -> None:
    wrong = []
    for place, entry, gpu in kept():
        case, peak = Case(**entry["case"]), max(entry["measured"]["phases"].values())
        if peak > MOST_BYTES_TRACED or case.method == "qlora":
            continue
        error = (trace(request_of(case)).peak_bytes + workspace_bytes(case, gpu)) / peak - 1
        if abs(error) > LARGEST_DIFFERENCE:
            wrong.append(f"{place}, {case.model}, {case.title}: {error:+.2%}")
    assert wrong == []
