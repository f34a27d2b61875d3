"""Builds the real model class from its configuration: as sizes on the meta device, then as fake or real tensors."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from clusterlm.errors import ClusterlmError, MissingPackage, ModelError
from clusterlm.worker.trace.request import TraceRequest

NOT_TRACED = ("model_type", "quantization_config", "dtype", "torch_dtype", "transformers_version", "auto_map")
"""Parts of config.json that say how the weights were saved, not what the model computes."""


def read_config(content: dict[str, Any]) -> Any:
    """The configuration as transformers' own class; ModelError for an architecture that it does not know."""
    quiet()
    if not (model_type := content.get("model_type")):
        raise ModelError("has no model_type", where="config.json")
    try:
        return AutoConfig.for_model(model_type, **{name: content[name] for name in content if name not in NOT_TRACED})
    except ValueError as problem:
        if "Unrecognized model identifier" not in str(problem):
            raise ModelError(f"config.json: {first_line(problem)}", where=model_type) from None
        hint = "a newer architecture needs a newer transformers"
        message = f"the installed transformers {transformers.__version__} does not know this architecture"
        raise ModelError(message, where=model_type, hint=hint) from None
    except Exception as problem:  # noqa: BLE001 each configuration class raises its own
        raise ModelError(f"config.json: {first_line(problem)}", where=model_type) from None


def build_on_meta(request: TraceRequest, config: Any) -> Any:
    """The model, with adapters where asked, as sizes without storage."""
    with torch.device("meta"):
        return build_here(request, config)


def build_here(request: TraceRequest, config: Any) -> Any:
    """The model, with adapters where asked, on torch's current device."""
    try:
        with warnings.catch_warnings(action="ignore"):
            attention = None if request.attention == "auto" else request.attention
            model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, request.dtype), attn_implementation=attention
            )
            return _with_adapters(model, request) if request.method == "lora" else model
    except ClusterlmError:
        raise
    except ImportError as problem:
        raise MissingPackage(first_line(problem), hint="pip install 'clusterlm[run]'") from None
    except Exception as problem:  # noqa: BLE001 each model class raises its own
        other_kind = "Unrecognized configuration class" in str(problem)
        message = "only causal language models are traced" if other_kind else f"cannot be built: {first_line(problem)}"
        raise ModelError(message, where=config.model_type) from None


def fill(model: torch.nn.Module) -> None:
    """Give every parameter and buffer a storage of its own, inside the fake mode; tied ones stay tied."""
    filled: dict[int, Any] = {}
    # A dictionary by identity needs the originals alive: a freed tensor's identity is given to the next one.
    originals: list[torch.Tensor] = []
    for module in model.modules():
        for tensors in (module._parameters, module._buffers, module.__dict__):
            for name, tensor in list(tensors.items()):
                if not isinstance(tensor, torch.Tensor) or tensor.device.type != "meta":
                    continue
                if id(tensor) not in filled:
                    originals.append(tensor)
                    filled[id(tensor)] = _empty_like(tensor)
                tensors[name] = filled[id(tensor)]


def adapted_of_their_own(model: torch.nn.Module) -> list[str]:
    """Classes of adapted modules that are the architecture's own: PEFT takes them for plain linear layers."""
    adapted = [getattr(module, "base_layer", None) for module in model.modules()]
    return sorted({type(base).__name__ for base in adapted if type(base).__module__.startswith("transformers.models")})


def tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters, buffers, and what a module keeps as a plain attribute."""
    kept = [
        tensor for module in model.modules() for tensor in vars(module).values() if isinstance(tensor, torch.Tensor)
    ]
    return [*model.parameters(), *model.buffers(), *kept]


def prepare(model: Any, request: TraceRequest) -> None:
    """The modes of the task: as the Trainer sets them, or as generation does."""
    if request.task == "generate":
        model.eval()
        return
    model.config.use_cache = False
    if request.gradient_checkpointing:
        try:
            with warnings.catch_warnings(action="ignore"):  # it has another name since transformers 5.20 or so
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as problem:
            raise ModelError(first_line(problem), where="gradient_checkpointing") from None
        if request.method == "lora":
            model.enable_input_require_grads()
    model.train()


def transformer(model: Any) -> Any:
    """The transformers model under the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(model: Any) -> torch.nn.ModuleList | None:
    """The text model's layers; None where they are not in one list."""
    depth = transformer(model).config.get_text_config(decoder=True).num_hidden_layers
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == depth]
    return max(lists, key=lambda layers: sum(weight.numel() for weight in layers.parameters()), default=None)


def quiet() -> None:
    """What the libraries say on building is for their developers; errors come as exceptions."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n")[0] or type(problem).__name__


def _with_adapters(model: Any, request: TraceRequest) -> Any:
    import peft

    targets = request.lora_targets
    settings = peft.LoraConfig(
        r=request.lora_rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings, low_cpu_mem_usage=model.device.type == "meta")
    except ValueError as problem:
        raise ModelError(first_line(problem), where="lora_targets") from None


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, torch.nn.Parameter):
        return empty
    return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)


def experts_implementation(model: Any) -> str | None:
    """How the experts are computed; None where there are none to choose for."""
    base = transformer(model)
    if not any(
        module.__class__._can_set_experts_implementation()
        for module in base.modules()
        if hasattr(module, "_can_set_experts_implementation")
    ):
        return None
    chosen: str | None = base.config.get_text_config(decoder=True)._experts_implementation
    return chosen
