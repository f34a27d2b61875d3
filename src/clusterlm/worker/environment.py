"""With what a result was made: versions, device, model, chat template."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch

from clusterlm.runs.asked import Asked
from clusterlm.spec import GenerateSpec
from clusterlm.version import __version__
from clusterlm.worker.generator import Generator

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "bitsandbytes", "safetensors", "numpy")


def describe_environment(asked: Asked[GenerateSpec], generator: Generator) -> dict[str, Any]:
    """All that can change a result besides what was asked, as JSON values."""
    template = generator.tokenizer.chat_template
    return {
        **describe_process(generator.model.device, PACKAGES),
        "model": {
            **describe_model(asked),
            "architecture": type(generator.model.module).__name__,
            "dtype": str(generator.model.module.dtype).removeprefix("torch."),
            "quantize": asked.spec.quantize,
            "context_tokens": generator.model.context_tokens,
        },
        "chat_template_sha256": hashlib.sha256(str(template).encode()).hexdigest() if template else None,
        "sampling_of_the_model": generator.prompting.own_sampling,
    }


def describe_process(device: torch.device, packages: Iterable[str]) -> dict[str, Any]:
    """Versions, the machine and the device."""
    return {
        "clusterlm": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
        "host": platform.node(),
        "process": os.getpid(),
        "command": sys.argv,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "device": torch.get_device_module(device).get_device_name(device) if device.type != "cpu" else _processor(),
        "threads": torch.get_num_threads(),
    }


def describe_model(asked: Asked[Any]) -> dict[str, Any]:
    return {"name": asked.model_name, "path": str(asked.model_path), "fingerprint": asked.model_fingerprint}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"CPU: {names[0] if names else platform.machine()}"
