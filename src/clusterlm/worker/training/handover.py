"""How the processes were started and cut, as files that accelerate, DeepSpeed and torchrun read without clusterlm."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

ACCELERATE = "accelerate.yaml"
DEEPSPEED = "deepspeed.json"
LAUNCH = "launch.txt"
BY_US = {"version": "fsdp_version", "cpu_offload": "fsdp_offload_params"}
"""What transformers calls otherwise than accelerate."""


def hand_over(folder: Path, trainer: Any, run: Path) -> None:
    """Into an attempt's folder, by the first of several processes."""
    if trainer.is_deepspeed_enabled:
        settings = dict(trainer.accelerator.state.deepspeed_plugin.deepspeed_config)
        settings.pop("steps_per_print", None)  # accelerate's, infinite, which is no JSON
        (folder / DEEPSPEED).write_text(json.dumps(settings, indent=1) + "\n")
    (folder / ACCELERATE).write_text(yaml.safe_dump(accelerate_config(trainer), sort_keys=False))
    start = ["torchrun", "--nnodes", str(_nodes()), "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"]]
    lines = [
        "# so this attempt was started:",
        shlex.join([*start, "-m", "clusterlm.worker", str(run)]),
        "# so a script of your own is, cut in the same way:",
        f"accelerate launch --config_file {ACCELERATE} train.py",
    ]
    if trainer.is_deepspeed_enabled:
        lines += [f'# or with TrainingArguments(deepspeed="{DEEPSPEED}"):', f"{shlex.join(start)} train.py"]
    (folder / LAUNCH).write_text("\n".join(lines) + "\n")


def accelerate_config(trainer: Any) -> dict[str, Any]:
    """The content of accelerate's file."""
    on_cpu = trainer.args.use_cpu
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_CPU" if on_cpu else "MULTI_GPU",
        "mixed_precision": trainer.accelerator.mixed_precision,
        "num_machines": _nodes(),
        "num_processes": trainer.args.world_size,
        "machine_rank": 0,
        "main_training_function": "main",
        "use_cpu": on_cpu,
    }
    if trainer.is_deepspeed_enabled:
        stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {"deepspeed_config_file": DEEPSPEED, "zero3_init_flag": stage == 3}
        if layers := os.environ.get("ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES"):
            config["deepspeed_config"]["deepspeed_moe_layer_cls_names"] = layers
        del config["mixed_precision"]  # is in the other file
    elif trainer.is_fsdp_enabled:
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = _fsdp_config(trainer.args.fsdp_config)
    return config


def _fsdp_config(settings: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in settings.items() if not name.startswith("xla") and name != "min_num_params"}
    if isinstance(layers := known.get("transformer_layer_cls_to_wrap"), list):
        known["transformer_layer_cls_to_wrap"] = ",".join(layers)
    return {BY_US.get(name, f"fsdp_{name}"): value for name, value in known.items()}


def _nodes() -> int:
    return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
