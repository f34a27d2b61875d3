"""Every strategy on two processes: the same training as on one, really cut, saved whole, continued by any other."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers import AutoModelForCausalLM

from clusterlm.errors import RunError
from clusterlm.spec.own_strategy.keys import known_keys
from clusterlm.worker.training.strategies import check_cut
from tests.cli.running import clusterlm, lines_of
from tests.engines.zoo import make_model
from tests.sharing import shared_between_workers
from tests.training.lessons import TEXTS, losses, weights
from tests.training.strategy_keys import installed_keys, source

pytestmark = pytest.mark.slow

STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
METHODS = ("full", "lora")
CARRIED = [
    ("fsdp-full", "single", "full"),
    ("single-full", "zero3", "full"),
    ("zero3-lora", "single", "lora"),
    ("single-lora", "fsdp", "lora"),
    ("zero2-full", "fsdp", "full"),
]
LATER = ("attempts", "finished.json", "step-00000004")
LEFT_ALONE = """
import clusterlm.worker.training.job as job, clusterlm.worker.training.strategies as strategies
own = job.spread_of
strategies.rehearse_without_accelerator = lambda: None
job.spread_of = lambda *given: {**own(*given), "use_cpu": True}
"""
"""What accelerate does with FSDP on CPUs by itself: nothing, and without a word."""

OWN_DEEPSPEED = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 54321, "offload_optimizer": {"device": "cpu"}},
    "train_batch_size": 16,
    "gradient_accumulation_steps": "auto",
    "communication_data_type": "fp32",
}
OWN_ACCELERATE = """
distributed_type: FSDP
mixed_precision: no
num_processes: 2
fsdp_config:
  fsdp_sharding_strategy: SHARD_GRAD_OP
  fsdp_transformer_layer_cls_to_wrap: LlamaMLP,LlamaAttention
  fsdp_cpu_ram_efficient_loading: false
"""
USED = """
import json, clusterlm.worker.training.job as job
from pathlib import Path
hand_over = job.hand_over
def used(folder, trainer, run):
    state, engine = trainer.accelerator.state, trainer.model_wrapped
    if trainer.is_deepspeed_enabled:
        zero = engine._config.zero_config
        found = {"stage": int(engine.zero_optimization_stage()), "bucket": int(zero.reduce_bucket_size)}
        found |= {"offload": zero.offload_optimizer.device, "sent": str(engine.communication_data_type)}
    else:
        plugin = state.fsdp_plugin
        found = {"version": plugin.fsdp_version, "reshard": plugin.reshard_after_forward}
        found |= {"layers": sorted(plugin.transformer_cls_names_to_wrap), "lean": plugin.cpu_ram_efficient_loading}
        found["units"] = sorted({type(one).__name__ for one in engine.modules() if hasattr(one, "unshard")})
    (folder / "used.json").write_text(json.dumps(found))
    hand_over(folder, trainer, run)
job.hand_over = used
"""
"""What the libraries believe when the first step is next."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> Path:
    """The folder of all trainings, each by the name of its output."""

    def work(folder: Path) -> None:
        texts, large = folder / "texts.jsonl", folder / "large"
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        make_model(large, "llama", hidden_size=768, intermediate_size=3072, num_hidden_layers=4)

        def lesson(name: str, strategy: str, method: str = "full", **more: Any) -> dict[str, Any]:
            settings = {"learning_rate": 0.01, "warm_up": 0, "global_batch_size": 16, "dtype": "float32"}
            settings |= {"model": str(tiny("llama")), "input": str(texts), "max_steps": 4, "checkpoint_steps": 2}
            settings |= {"output": str(folder / name), "strategy": strategy, "method": method, **more}
            return {"processes": 1 if strategy == "single" else 2, **settings}

        every = [
            lesson(f"{strategy}-{method}", strategy, method)
            for strategy in ("single", *STRATEGIES)
            for method in METHODS
        ]
        special = [
            *(lesson(f"{strategy}-qlora", strategy, "qlora", max_steps=2) for strategy in ("single", "fsdp")),
            lesson("zero3-qlora", "zero3", "qlora", max_steps=2, offload="cpu"),
            lesson("alone", "fsdp", before=LEFT_ALONE),
            lesson("own-deepspeed", "auto", before=USED, deepspeed_config=str(folder / "ds.json")),
            lesson("own-accelerate", "auto", before=USED, accelerate_config=str(folder / "own.yaml")),
            lesson("large-ddp", "ddp", model=str(large), max_steps=1),
            lesson("large-fsdp", "fsdp", model=str(large), max_steps=1),
        ]
        (folder / "ds.json").write_text(json.dumps(OWN_DEEPSPEED))
        (folder / "own.yaml").write_text(OWN_ACCELERATE)
        _train([*every, *special], folder)
        (folder / "ds.json").unlink()
        _stop_behind_the_checkpoint(folder / "own-deepspeed", folder / "own-deepspeed-again")
        kept = lesson("own-deepspeed-again", "auto", before=USED, deepspeed_config=str(folder / "ds.json"))
        again = [(f"{strategy}-full", strategy, "full") for strategy in STRATEGIES]
        for name, strategy, _ in (*again, *CARRIED):
            _stop_behind_the_checkpoint(folder / name, folder / f"{name}-{strategy}")
        continued = [lesson(f"{name}-{strategy}", strategy, method) for name, strategy, method in (*again, *CARRIED)]
        _train([*continued, kept], folder)

    return shared_between_workers(tmp_path_factory, "strategies", work)


def _train(lessons: list[dict[str, Any]], folder: Path) -> None:
    (folder / "lessons.json").write_text(json.dumps(lessons))
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    program = [sys.executable, "-m", "tests.training.several", str(folder / "lessons.json")]
    subprocess.run(program, env=environment, check=True, timeout=500, capture_output=True)


def _stop_behind_the_checkpoint(ended: Path, other: Path) -> None:
    """A run as `ended`, and not yet done."""
    shutil.copytree(f"{ended}.run", f"{other}.run", ignore=shutil.ignore_patterns(*LATER))
    file = Path(f"{other}.run") / "run.json"
    file.write_text(file.read_text().replace(str(ended), str(other)))


def _said(output: Path) -> str:
    return Path(f"{output}.log").read_text()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_the_same_as_one_and_save_it_whole(done: Path, strategy: str, method: str) -> None:
    output, alone = done / f"{strategy}-{method}", done / f"single-{method}"
    assert losses(output) == pytest.approx(losses(alone), abs=1e-4), _said(output)
    assert len(losses(output)) == 4
    learned, expected = weights(output), weights(alone)
    assert learned.keys() == expected.keys()
    assert max(float((learned[name] - expected[name]).abs().max()) for name in expected) < 1e-4
    ids = torch.arange(20)[None]
    with torch.no_grad():
        first, second = (AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in (output, alone))
    assert torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_two_processes_learn_beside_4_bits_as_one_does(done: Path, strategy: str) -> None:
    """ZeRO-3 from host memory."""
    output, alone = done / f"{strategy}-qlora", done / "single-qlora"
    assert losses(output) == pytest.approx(losses(alone), abs=2e-4), _said(output)
    assert len(losses(output)) == 2
    assert weights(output).keys() == weights(alone).keys()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_training_goes_on_to_the_bit_with_as_many_processes(done: Path, strategy: str) -> None:
    whole, continued = done / f"{strategy}-full", done / f"{strategy}-full-{strategy}"
    assert "continuing behind step 2" in _said(continued)
    assert losses(continued) == {step: loss for step, loss in losses(whole).items() if step > 2}, _said(continued)


@pytest.mark.parametrize(("name", "strategy", "method"), CARRIED)
def test_a_training_goes_on_with_other_processes_and_strategies(
    done: Path, name: str, strategy: str, method: str
) -> None:
    continued = done / f"{name}-{strategy}"
    expected = {step: loss for step, loss in losses(done / name).items() if step > 2}
    assert losses(continued) == pytest.approx(expected, abs=1e-4), _said(continued)
    learned, whole = weights(continued), weights(done / name)
    assert max(float((learned[key] - whole[key]).abs().max()) for key in whole) < 1e-4


def test_a_model_that_was_not_cut_is_not_trained(done: Path) -> None:
    assert json.loads((done / "alone.status").read_text()) == [1, 1]
    assert "error: FSDP was asked for, but there are parameters that are whole on every process" in _said(
        done / "alone"
    )
    for strategy in STRATEGIES:
        with pytest.raises(RunError, match="was asked for, but"):
            check_cut(strategy, nn.Linear(2, 2), 2)  # type: ignore[arg-type]


def test_of_a_model_that_is_cut_no_process_holds_all_while_it_is_loaded(done: Path) -> None:
    def peaks(name: str) -> dict[str, Any]:
        (attempt,) = Path(f"{done / name}.run").glob("attempts/*/environment.json")
        return dict(json.loads(attempt.read_text())["training"]["peak_host_bytes_of_loading"])

    copy = (done / "large" / "model.safetensors").stat().st_size
    assert copy > 100e6
    cut, whole = peaks("large-fsdp"), peaks("large-ddp")
    assert max(cut["processes"]) < min(whole["processes"]) - copy / 2
    assert list(cut["nodes"].values()) == [sum(cut["processes"])]
    assert f"of memory on {next(iter(cut['nodes']))}, at most" in clusterlm("runs", "show", done / "large-fsdp").stdout


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_how_it_was_cut_can_be_used_without_clusterlm(done: Path, strategy: str) -> None:
    attempt = Path(f"{done / f'{strategy}-full'}.run") / "attempts" / "1"
    config = load_config_from_file(str(attempt / "accelerate.yaml"))
    assert config.num_processes == 2
    kinds = {"ddp": "MULTI_CPU", "fsdp": "FSDP"}
    assert str(config.distributed_type).endswith(kinds.get(strategy, "DEEPSPEED"))
    if strategy.startswith("zero"):
        settings = json.loads((attempt / "deepspeed.json").read_text())
        assert settings["zero_optimization"]["stage"] == int(strategy[-1])
        assert "auto" not in settings.values()
    started = (attempt / "launch.txt").read_text()
    assert re.search(r"^torchrun --nnodes 1 --nproc-per-node 2 -m clusterlm.worker /", started, re.MULTILINE)


def _used(output: Path, attempt: int = 1) -> Any:
    return json.loads((Path(f"{output}.run") / "attempts" / str(attempt) / "used.json").read_text())


def test_a_file_of_ones_own_is_what_the_libraries_are_given(done: Path) -> None:
    of_deepspeed, of_accelerate = done / "own-deepspeed", done / "own-accelerate"
    for output in (of_deepspeed, of_accelerate):
        assert losses(output) == pytest.approx(losses(done / "single-full"), abs=1e-4), _said(output)
    expected = {"stage": 2, "bucket": 54321, "offload": "cpu", "sent": "torch.float32"}
    assert _used(of_deepspeed) == expected
    layers = ["LlamaAttention", "LlamaMLP"]
    used = _used(of_accelerate)
    assert {**used, "units": None} == {"version": 2, "reshard": False, "layers": layers, "lean": False, "units": None}
    assert {"FSDPLlamaAttention", "FSDPLlamaMLP"} <= set(used["units"])
    assert "FSDPLlamaDecoderLayer" not in used["units"]
    attempt = Path(f"{of_accelerate}.run") / "attempts" / "1"
    handed_over = load_config_from_file(str(attempt / "accelerate.yaml")).fsdp_config
    assert handed_over["fsdp_reshard_after_forward"] is False
    assert handed_over["fsdp_transformer_layer_cls_to_wrap"] == "LlamaMLP,LlamaAttention"
    handed_over = json.loads((Path(f"{of_deepspeed}.run") / "attempts" / "1" / "deepspeed.json").read_text())
    assert handed_over["zero_optimization"]["reduce_bucket_size"] == 54321


def test_a_run_goes_on_with_what_its_file_said_when_it_is_gone(done: Path) -> None:
    continued = done / "own-deepspeed-again"
    expected = {step: loss for step, loss in losses(done / "own-deepspeed").items() if step > 2}
    assert losses(continued) == expected, _said(continued)
    assert _used(continued) == _used(done / "own-deepspeed")


def test_the_keys_of_both_files_are_those_of_the_installed_libraries() -> None:
    assert installed_keys() == {name: keys for name, keys in known_keys().items() if name != "source"}
    assert known_keys()["source"] == source()


def _clusterlm(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "clusterlm", *map(str, arguments)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


def test_a_killed_process_ends_the_others_and_is_named(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    asked = ("--gpus", 2, "--global-batch-size", 16, "--epochs", 1000, "--checkpoint-steps", 2)
    training = _clusterlm("train", model, texts, "-o", output, *asked)
    checkpoints = Path(f"{output}.run") / "checkpoints"
    ends = time.monotonic() + 120
    while not any(checkpoints.glob("step-????????")) and training.poll() is None and time.monotonic() < ends:
        time.sleep(0.2)
    torchrun = _children(training.pid)[0]
    os.kill(_children(torchrun)[1], signal.SIGKILL)
    killed = time.monotonic()
    printed, said = training.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert training.returncode == 128 + signal.SIGKILL
    assert printed == ""
    assert "error: process 1 of 2 was ended by SIGKILL, and the others with it" in said
    assert "Traceback" not in said
    logs = Path(said.strip().splitlines()[-1].partition(": ")[2])
    assert any("Traceback" in log.read_text() for log in logs.rglob("*.log"))
    assert lines_of(Path(f"{output}.run") / "attempts" / "1" / "steps.jsonl")


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_deepspeed_leaves_standard_output_to_the_answers(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the\n")
    answering = _clusterlm("generate", model, prompts, "-o", "-", "--max-new-tokens", 2)
    printed, said = answering.communicate(timeout=120)
    assert [set(json.loads(line)) >= {"text"} for line in printed.splitlines()] == [True], said
