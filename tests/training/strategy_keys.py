"""The keys of accelerate's and DeepSpeed's configuration files, asked of the installed libraries.

`python -m tests.training.strategy_keys` writes the file anew that the login node checks by.
"""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import accelerate
import deepspeed
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from deepspeed.runtime import config as of_deepspeed
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig

KEYS = Path(__file__).parents[2] / "src" / "clusterlm" / "spec" / "own_strategy" / "keys.json"
ONLY_WITH_PROCESSES = {"sequence_parallel_size"}
"""What DeepSpeed looks for only where it was started by several."""


class _Asked(dict[str, Any]):
    """A mapping that notes what is looked for in it: DeepSpeed has no list of its keys."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.keys_asked_for: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked_for.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked_for.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.keys_asked_for.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> _Asked:
        return self


def _of_deepspeed() -> set[str]:
    asked = _Asked({"train_batch_size": 1})
    of_deepspeed.DeepSpeedConfig(asked)
    return asked.keys_asked_for | ONLY_WITH_PROCESSES


def _of_model(model: Any) -> tuple[dict[str, str], set[str]]:
    """The names in files with the kinds of their values, and names that are old."""
    all_fields = model.model_fields.items()
    old = {name for name, field in all_fields if (field.json_schema_extra or {}).get("deprecated")}
    return {field.alias or name: _kind(field.annotation) for name, field in all_fields if name not in old}, old


def _kind(annotation: Any) -> str:
    kinds = {*get_args(annotation)} - {type(None)} or {annotation}
    return "truth value" if kinds == {bool} else "number" if kinds <= {int, float} else "value"


def installed_keys() -> dict[str, Any]:
    removed = set(of_deepspeed._REMOVED_TOP_LEVEL_CONFIG_KEYS)
    zero, old = _of_model(DeepSpeedZeroConfig)
    groups = {group.title: group for group in launch_command_parser()._action_groups}

    def flags(title: str) -> set[str]:
        return {action.dest for action in groups[title]._group_actions}

    known: dict[str, dict[str, str] | set[str]] = {
        "deepspeed": _of_deepspeed() - removed,
        "deepspeed.removed": removed,
        "deepspeed.zero_optimization": zero,
        "deepspeed.zero_optimization.removed": old | set(of_deepspeed._REMOVED_ZERO_CONFIG_KEYS),
        "deepspeed.zero_optimization.offload_optimizer": _of_model(DeepSpeedZeroOffloadOptimizerConfig)[0],
        "deepspeed.zero_optimization.offload_param": _of_model(DeepSpeedZeroOffloadParamConfig)[0],
        "deepspeed.bf16": _of_model(DeepSpeedBF16Config)[0],
        "deepspeed.fp16": _of_model(DeepSpeedFP16Config)[0],
        "accelerate": {field.name for field in fields(ClusterConfig)} | {"fp16", "dynamo_backend"},
        "accelerate.deepspeed_config": flags("DeepSpeed Arguments"),
        "accelerate.fsdp_config": flags("FSDP Arguments"),
        "accelerate.distributed_type": {str(one.value) for one in DistributedType},
    }
    return {
        name: dict(sorted(keys.items())) if isinstance(keys, dict) else sorted(keys) for name, keys in known.items()
    }


def source() -> str:
    """Whose keys they are."""
    return f"accelerate {accelerate.__version__}, deepspeed {version(deepspeed.__name__)}"


if __name__ == "__main__":
    KEYS.write_text(json.dumps({"source": source(), **installed_keys()}, indent=1) + "\n")
