"""A user's own file of DeepSpeed or accelerate: what it asks for, and what of it is refused before anything is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterlm.runs.own_file import with_own_file
from clusterlm.spec import TrainSpec, make_spec, read_run_file
from clusterlm.spec.own_strategy import OwnStrategy, own_strategy, settled
from tests.cli.running import all_files, clusterlm

TWO = ["--gpus", 2]
ZERO2 = {"zero_optimization": {"stage": 2}}
ZERO3 = {"zero_optimization": {"stage": 3}}
FSDP2 = {"fsdp_version": 2, "fsdp_reshard_after_forward": True}


def accelerate(kind: str = "MULTI_GPU", **more: Any) -> dict[str, Any]:
    """As `accelerate config` writes it."""
    usual = {"compute_environment": "LOCAL_MACHINE", "machine_rank": 0, "num_machines": 1, "rdzv_backend": "static"}
    return {**usual, "debug": False, "downcast_bf16": "no", "distributed_type": kind, **more}


def fsdp(**section: Any) -> dict[str, Any]:
    return accelerate("FSDP", fsdp_config={f"fsdp_{name}": value for name, value in section.items()})


def by_deepspeed(**section: Any) -> dict[str, Any]:
    return accelerate("DEEPSPEED", deepspeed_config=section)


# -------------------------------------------------------------------------------------------------- what is asked for
def asked(content: dict[str, Any], setting: str = "deepspeed_config", **flags: Any) -> tuple[TrainSpec, OwnStrategy]:
    values = {"model": "m", "input": "i", "output": "o", setting: content, **flags}
    spec, _ = settled(make_spec(TrainSpec, values))
    own = own_strategy(spec)
    assert own is not None
    return spec, own


def stage(stage: int, **zero: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **zero}}


CPU = {"device": "cpu"}
OF_DEEPSPEED: list[tuple[dict[str, Any], str, str]] = [
    (stage(0), "ddp", "none"),
    (stage(1), "zero1", "none"),
    (stage(2, offload_optimizer=CPU), "zero2", "optimizer-cpu"),
    (stage(3), "zero3", "none"),
    (stage(3, offload_optimizer=CPU, offload_param={**CPU, "pin_memory": True}), "zero3", "cpu"),
    (stage(3, offload_optimizer={"device": "none"}), "zero3", "none"),
]
OF_ACCELERATE: list[tuple[dict[str, Any], str, str]] = [
    (accelerate(), "ddp", "none"),
    (accelerate("MULTI_CPU", use_cpu=True), "ddp", "none"),
    (by_deepspeed(), "zero2", "none"),
    (by_deepspeed(zero_stage=3, offload_optimizer_device="cpu", offload_param_device="cpu"), "zero3", "cpu"),
    (by_deepspeed(deepspeed_config_file=stage(1)), "zero1", "none"),
    (fsdp(version=2, offload_params=True), "fsdp", "cpu"),
    (fsdp(sharding_strategy="FULL_SHARD"), "fsdp", "none"),
    (fsdp(sharding_strategy=2), "fsdp", "none"),
    (fsdp(sharding_strategy="NO_SHARD"), "ddp", "none"),
]


@pytest.mark.parametrize(("content", "strategy", "offload"), OF_DEEPSPEED)
def test_the_stage_of_deepspeed_decides(content: dict[str, Any], strategy: str, offload: str) -> None:
    spec, _ = asked(content, gpus=2)
    assert (spec.strategy, spec.offload) == (strategy, offload)


@pytest.mark.parametrize(("content", "strategy", "offload"), OF_ACCELERATE)
def test_the_type_of_accelerate_decides(content: dict[str, Any], strategy: str, offload: str) -> None:
    spec, _ = asked({**content, "num_processes": 4}, "accelerate_config")
    assert (spec.strategy, spec.offload, spec.gpus) == (strategy, offload, 4)


def test_one_process_is_asked_for_by_the_type_no() -> None:
    spec, _ = asked(accelerate("NO"), "accelerate_config")
    assert (spec.strategy, spec.gpus) == ("single", 1)


def test_what_version_1_of_fsdp_says_is_translated() -> None:
    _, own = asked(
        fsdp(
            sharding_strategy="SHARD_GRAD_OP",
            transformer_layer_cls_to_wrap="LlamaDecoderLayer,LlamaMLP",
            activation_checkpointing="true",
            state_dict_type="FULL_STATE_DICT",
            backward_prefetch="BACKWARD_PRE",
        ),
        "accelerate_config",
        gpus=2,
    )
    assert own.fsdp == {
        "reshard_after_forward": False,
        "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer", "LlamaMLP"],
        "activation_checkpointing": True,
    }
    said = " ".join(own.notes)
    for words in ("FSDP 1 calls SHARD_GRAD_OP", "fsdp_backward_prefetch", "SHARDED_STATE_DICT all the same"):
        assert words in said


def test_sizes_of_batches_decide_what_is_open() -> None:
    sizes = {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 8}
    spec, own = asked({**ZERO2, **sizes})
    assert (spec.gpus, spec.micro_batch) == (2, 4)  # 64 = 2 x 4 x 8
    assert own.deepspeed == ZERO2  # what the trainer fills in is not told twice
    spec, _ = asked({**ZERO2, "gradient_accumulation_steps": 4}, gpus=2)
    assert spec.micro_batch == 8


def test_what_equals_our_flags_or_is_auto_is_taken() -> None:
    params = {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": "auto"}
    rising = {"warmup_min_lr": 0, "warmup_max_lr": 1e-4, "warmup_num_steps": 3, "total_num_steps": 100}
    content = {
        **ZERO3,
        "optimizer": {"type": "AdamW", "params": params},
        "scheduler": {"type": "WarmupDecayLR", "params": rising},
        "gradient_clipping": 1,
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
    }
    _, own = asked(content, gpus=2, learning_rate=1e-4, schedule="linear", max_steps=100, warm_up=0.03)
    assert own.deepspeed == {**ZERO3, "bf16": {"enabled": "auto"}}


def test_a_run_file_holds_the_content_and_asks_for_the_same(tmp_path: Path) -> None:
    content = {
        **stage(3, reduce_bucket_size=5e8, offload_param=CPU),
        "bf16": {"enabled": True},
        "wandb": {"team": 'a"b'},
    }
    spec, _ = asked(content, gpus=2)
    (tmp_path / "run.toml").write_text(spec.to_toml())
    again = make_spec(TrainSpec, read_run_file(tmp_path / "run.toml"))
    assert again.deepspeed_config == content
    assert settled(again)[0] == again


def test_a_file_is_meant_from_the_folder_of_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "ds.json").write_text(json.dumps(stage(3, sub_group_size=7)))
    named = by_deepspeed(deepspeed_config_file="ds.json", zero3_init_flag=True)
    (tmp_path / "own" / "a.yaml").write_text(yaml.safe_dump(named))
    (tmp_path / "run.toml").write_text(
        'input = "i"\nmodel = "m"\noutput = "o"\ngpus = 2\naccelerate_config = "own/a.yaml"\n'
    )
    spec, _ = settled(make_spec(TrainSpec, read_run_file(tmp_path / "run.toml")))
    own = own_strategy(spec)
    assert own is not None
    assert own.deepspeed == stage(3, sub_group_size=7)
    (tmp_path / "own" / "ds.json").unlink()
    assert own_strategy(spec) == own


def test_what_the_file_says_now_is_done_and_said_where_its_run_keeps_another(tmp_path: Path) -> None:
    file, run = tmp_path / "ds.json", tmp_path / "o.run"
    run.mkdir()
    known = {"requests": 1, "model_name": "m", "input_path": "i", "created": ""}
    (run / "run.json").write_text(json.dumps({"spec": {"task": "train", "deepspeed_config": ZERO2}, **known}))
    values = {"model": "m", "input": "i", "output": str(tmp_path / "o"), "gpus": 2, "deepspeed_config": str(file)}
    for content, note in ((None, "is no more there: its run keeps"), (ZERO2, ""), (ZERO3, "has changed since its run")):
        if content is not None:
            file.write_text(json.dumps(content))
        spec, notes = with_own_file(make_spec(TrainSpec, values))
        assert spec.deepspeed_config == (content or ZERO2)
        assert note in "".join(notes)
        assert bool(notes) == bool(note)


# ---------------------------------------------------------------------------------------------------- what is refused
Case = tuple[str, Any, list[object], list[str]]
"""The file's name and content, flags, what is said besides the file's name."""
UNREADABLE: list[Case] = [
    ("ds.json", None, TWO, ["no such file"]),
    ("ds.json", '{"a": 1,\n "b" 2}', TWO, ["ds.json:2", "not JSON"]),
    ("ds.json", '{"a": 1, "a": 2}', TWO, ["says twice: a"]),
    ("ds.json", "[1]", TWO, ["no keys with values"]),
    ("a.yaml", "a: 1\nb: [1\nc: 2\n", TWO, ["a.yaml:3", "not YAML"]),
    ("a.yaml", "just words\n", TWO, ["no keys with values"]),
    ("a.yaml", "num_processes: 2024-01-01\n", TWO, ["num_processes", "quotation marks"]),
    ("a.yaml", by_deepspeed(deepspeed_config_file="ds.json"), TWO, ["ds.json", "no such file"]),
]
UNKNOWN: list[Case] = [
    ("ds.json", {**ZERO2, "zero_optimisation": 1}, TWO, ["zero_optimisation", "did you mean 'zero_optimization'?"]),
    ("ds.json", stage(2, reduce_buckets=1), TWO, ["zero_optimization.reduce_buckets", "reduce_bucket_size"]),
    ("ds.json", stage(2, cpu_offload=True), TWO, ["zero_optimization.cpu_offload: is no more in", "deepspeed 0."]),
    ("ds.json", {**ZERO2, "amp": {"enabled": True}}, TWO, ["amp: is no more in"]),
    ("ds.json", stage(2, offload_optimizer={"devise": "cpu"}), TWO, ["offload_optimizer.devise", "device"]),
    ("a.yaml", accelerate(num_procs=2), TWO, ["num_procs", "did you mean 'num_processes'?"]),
    ("a.yaml", fsdp(version=2, reshard=True), TWO, ["fsdp_config.fsdp_reshard", "fsdp_reshard_after_forward"]),
    ("a.yaml", by_deepspeed(zero_stages=2), TWO, ["deepspeed_config.zero_stages", "zero_stage"]),
    ("a.yaml", accelerate("MULTI_GPUS"), TWO, ["distributed_type", "'MULTI_GPU'"]),
]
NOT_DONE: list[Case] = [
    ("ds.json", stage(2, reduce_bucket_size="5e8"), TWO, ["zero_optimization.reduce_bucket_size = '5e8'", "number"]),
    ("ds.json", stage(2, overlap_comm="yes"), TWO, ["zero_optimization.overlap_comm = 'yes'", "truth value"]),
    ("ds.json", stage(2, overlap_comm="auto"), TWO, ['zero_optimization.overlap_comm = "auto"', "nothing fills it in"]),
    ("ds.json", stage(4), TWO, ["zero_optimization.stage = 4", "0, 1, 2 or 3"]),
    ("ds.json", {"bf16": {"enabled": True}}, TWO, ["zero_optimization", "is missing"]),
    (
        "ds.json",
        {**ZERO2, "bf16": {"enabled": True}, "fp16": {"enabled": True}},
        TWO,
        ["bf16.enabled and fp16.enabled"],
    ),
    ("ds.json", stage(2, offload_param=CPU), TWO, ["offload_param", "stage 3"]),
    ("ds.json", {**ZERO2, "prescale_gradients": True}, TWO, ["prescale_gradients", "reduce_scatter"]),
    ("ds.json", stage(3, offload_param={"device": "nvme"}), TWO, ["nvme", "'cpu'"]),
    ("ds.json", stage(3, stage3_gather_16bit_weights_on_model_save=False), TWO, ["stage3_gather_16bit", "true"]),
    ("ds.json", {**ZERO2, "tensor_parallel": {"autotp_size": 2}}, TWO, ["tensor_parallel", "zero3"]),
    ("a.yaml", accelerate("XLA"), TWO, ["'XLA'", "TPU"]),
    ("a.yaml", accelerate("MEGATRON_LM"), TWO, ["MEGATRON_LM", "FSDP or DEEPSPEED"]),
    ("a.yaml", {"compute_environment": "AMAZON_SAGEMAKER"}, TWO, ["AMAZON_SAGEMAKER", "LOCAL_MACHINE"]),
    ("a.yaml", accelerate(mixed_precision="fp8"), TWO, ["mixed_precision = 'fp8'", "no, fp16, bf16"]),
    ("a.yaml", accelerate(downcast_bf16="yes"), TWO, ["downcast_bf16", "TPU"]),
    ("a.yaml", accelerate(gpu_ids="0,1"), TWO, ["gpu_ids", "CUDA_VISIBLE_DEVICES"]),
    ("a.yaml", accelerate(dynamo_config={"dynamo_backend": "INDUCTOR"}), TWO, ["dynamo_backend", "not compiled"]),
    ("a.yaml", accelerate(fsdp_config=FSDP2), TWO, ["fsdp_config", "MULTI_GPU"]),
    ("a.yaml", fsdp(sharding_strategy="HYBRID_SHARD"), TWO, ["HYBRID_SHARD", "FULL_SHARD"]),
    ("a.yaml", fsdp(version=2, sharding_strategy="FULL_SHARD"), TWO, ["of version 1", "fsdp_reshard_after_forward"]),
    ("a.yaml", fsdp(version=2, reshard_after_forward="FULL_SHARD"), TWO, ["true or false with fsdp_version: 2"]),
    ("a.yaml", fsdp(auto_wrap_policy="SIZE_BASED_WRAP"), TWO, ["SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"]),
    ("a.yaml", by_deepspeed(deepspeed_config_file=ZERO2, zero_stage=2), TWO, ["zero_stage", "deepspeed_config_file"]),
]
CONTRADICTING: list[Case] = [
    ("ds.json", ZERO2, [*TWO, "--strategy", "zero3"], ["zero2", "--strategy is zero3"]),
    ("ds.json", ZERO2, [*TWO, "--offload", "cpu"], ["offload none", "--offload is cpu"]),
    ("ds.json", stage(2, offload_optimizer=CPU), [*TWO, "--offload", "none"], ["optimizer-cpu", "--offload is none"]),
    ("ds.json", ZERO2, [], ["zero2", "there is one", "--gpus 2"]),
    ("ds.json", ZERO2, ["--gpus", 1], ["zero2", "--gpus 1", "--gpus 2"]),
    ("a.yaml", accelerate(num_processes=1), [], ["ddp", "num_processes 1", "--gpus 2"]),
    ("a.yaml", accelerate(num_processes=4), TWO, ["num_processes is 4", "--gpus 2"]),
    ("a.yaml", accelerate("NO"), TWO, ["--gpus 2"]),
    ("a.yaml", accelerate(num_processes=4, num_machines=2), [], ["num_machines is 2", "--on CLUSTER"]),
    ("a.yaml", accelerate(num_processes=4, num_machines=2), ["--on", "lumi"], ["num_machines is 2", "--nodes 2"]),
    ("a.yaml", accelerate("MULTI_CPU", use_cpu=True), ["--on", "lumi"], ["asks for CPUs", "MULTI_GPU"]),
    ("ds.json", {**ZERO2, "train_batch_size": 32}, TWO, ["train_batch_size is 32", "--global-batch-size 64"]),
    (
        "ds.json",
        {**ZERO2, "train_micro_batch_size_per_gpu": 4},
        [*TWO, "--micro-batch", 8],
        ["train_micro_batch_size_per_gpu is 4", "--micro-batch 8"],
    ),
    (
        "ds.json",
        {**ZERO2, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4},
        TWO,
        ["4 x 4 at once x 2 processes are 32", "--global-batch-size is 64"],
    ),
    ("ds.json", {**ZERO2, "gradient_accumulation_steps": 5}, TWO, ["5 x 2 processes", "64", "a multiple of 10"]),
    ("ds.json", {**ZERO2, "gradient_clipping": 0.5}, TWO, ["gradient_clipping is 0.5", "--max-grad-norm 1"]),
    ("ds.json", {**ZERO2, "bf16": {"enabled": True}}, [*TWO, "--dtype", "float32"], ["bf16", "--dtype is float32"]),
    ("ds.json", {**ZERO2, "bf16": {"enabled": False}}, [*TWO, "--dtype", "bfloat16"], ["--dtype is bfloat16"]),
    ("a.yaml", accelerate(mixed_precision="bf16"), [*TWO, "--dtype", "bfloat16"], ["--dtype auto", "float32 beside"]),
    ("a.yaml", fsdp(activation_checkpointing=True), [*TWO, "--no-gradient-checkpointing"], ["--no-gradient"]),
    (
        "a.yaml",
        accelerate("DEEPSPEED", mixed_precision="fp16", deepspeed_config={"deepspeed_config_file": "ds.json"}),
        TWO,
        ["mixed_precision = 'fp16'", "'bf16'"],
    ),
    (
        "ds.json",
        {**ZERO2, "optimizer": {"type": "AdamW", "params": {"lr": 3e-5}}},
        TWO,
        ["optimizer.params.lr is 3e-05", "--learning-rate"],
    ),
    ("ds.json", {**ZERO2, "optimizer": {"type": "Lamb"}}, TWO, ["'Lamb'", "--optimizer"]),
    (
        "ds.json",
        {**ZERO2, "optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}},
        TWO,
        ["optimizer.params.adam_w_mode is False", "it cannot be changed"],
    ),
    ("ds.json", {**ZERO2, "optimizer": {"type": "SGD"}}, TWO, ["--optimizer sgd is the same"]),
    ("ds.json", {**ZERO2, "scheduler": {"type": "WarmupLR"}}, TWO, ["--schedule constant is the same"]),
    (
        "ds.json",
        {**ZERO2, "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 10}}},
        [*TWO, "--max-steps", 100],
        ["scheduler.params.warmup_num_steps is 10", "3 here", "--warm-up"],
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "flags", "says"),
    UNREADABLE + UNKNOWN + NOT_DONE + CONTRADICTING,
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("as_job", [False, True], ids=["here", "as-a-job"])
def test_what_cannot_be_done_is_named_with_its_file(
    tmp_path: Path, name: str, content: Any, flags: list[object], says: list[str], as_job: bool
) -> None:
    if as_job and (not flags or "--on CLUSTER" in says):
        return  # a plan chooses the GPUs
    file = tmp_path / name
    if "'bf16'" in says:
        (tmp_path / "ds.json").write_text(json.dumps({**ZERO2, "bf16": {"enabled": True}}))
    if content is not None:
        as_text = json.dumps if name.endswith(".json") else yaml.safe_dump
        file.write_text(content if isinstance(content, str) else as_text(content))
    before = all_files(tmp_path)
    setting = "--deepspeed-config" if name.endswith(".json") else "--accelerate-config"
    place = ["--on", "lumi"] if as_job else []
    result = clusterlm("train", "m", "i.jsonl", "-o", tmp_path / "o", setting, file, *flags, *place)
    assert result.exit_code == (1 if "no such file" in says else 2), result.output
    assert result.stdout == ""
    for words in [name if "ds.json" not in says else "ds.json", *says]:
        assert words in result.stderr
    assert all_files(tmp_path) == before


def test_one_file_is_enough(tmp_path: Path) -> None:
    result = clusterlm("train", "m", "i", "-o", "o", "--deepspeed-config", "a", "--accelerate-config", "b")
    assert result.exit_code == 2
    assert "deepspeed_config and accelerate_config both say" in result.stderr
