"""Loading a model and its tokenizer, and what generation must know of them."""

from __future__ import annotations

import inspect
import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils import logging as transformers_logging

from clusterlm.errors import MissingPackage, ModelError
from clusterlm.spec import GenerateSpec
from clusterlm.store import config_folder

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
"""What architectures call the number of positions they can tell apart."""

NO_POSITION_LIMIT = {"bloom", "mpt", "falcon"}
"""With ALiBi there is no table to run out of; `seq_length` is only what training used. Falcon: where `alibi` is set."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal model ready to compute. `context_tokens` None: no limit.

    `cohort_layers` says for each layer whether it keeps keys and values; None: this architecture keeps something else
    (a recurrent state, say) and rows cannot share a cache.
    """

    module: Any
    device: torch.device
    context_tokens: int | None
    end_tokens: frozenset[int]
    weight_bytes: int
    vocabulary: int
    cohort_layers: tuple[bool, ...] | None
    accepts: frozenset[str]

    # Not inference_mode: cohorts change their tensors in place between two forwards, outside of it.
    @torch.no_grad()
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """The logits behind the last column, [rows, vocabulary]; `ids` and `positions` are [rows, columns]."""
        arguments: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        # Some architectures count positions themselves, older ones cannot leave out logits. Nothing else is passed:
        # token_type_ids, which some tokenizers return, are refused by models of the OPT family (Galactica).
        known = {name: value for name, value in arguments.items() if name in self.accepts}
        output = self.module(
            input_ids=ids.to(self.device), attention_mask=mask, past_key_values=cache, use_cache=True, **known
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def load_tokenizer(path: Path) -> Any:
    quiet()
    try:
        return AutoTokenizer.from_pretrained(path)
    except (ValueError, OSError, KeyError, ImportError) as problem:
        raise ModelError(f"the tokenizer cannot be loaded: {_first_line(problem)}", where=str(path)) from None


def load_model(path: Path, spec: GenerateSpec, tokenizer: Any) -> LoadedModel:
    """The weights in memory; ModelError where transformers cannot load them."""
    quiet()
    arguments: dict[str, Any] = {"dtype": spec.dtype, "device_map": _device_map(spec.device_map)}
    if spec.quantize != "none":
        arguments["quantization_config"] = _quantization(spec.quantize)
    try:
        with warnings.catch_warnings(action="ignore"):
            module = AutoModelForCausalLM.from_pretrained(path, **arguments)
    except ImportError as problem:
        raise MissingPackage(_first_line(problem), hint="pip install 'clusterlm[run]'") from None
    except torch.OutOfMemoryError as problem:
        hint = "--quantize int8 or nf4, more GPUs, or --device-map cpu"
        raise ModelError(f"the weights do not fit: {_first_line(problem)}", where=str(path), hint=hint) from None
    except (ValueError, OSError, KeyError, RuntimeError) as problem:
        raise ModelError(f"cannot be loaded: {_first_line(problem)}", where=str(path)) from None
    return describe(module.eval(), tokenizer)


def describe(module: Any, tokenizer: Any) -> LoadedModel:
    embedding = module.get_input_embeddings().weight
    return LoadedModel(
        module=module,
        device=embedding.device,
        context_tokens=context_tokens(module.config),
        end_tokens=_end_tokens(module.generation_config, tokenizer),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in module.parameters()),
        vocabulary=int(module.config.get_text_config().vocab_size),
        cohort_layers=_cohort_layers(module),
        accepts=frozenset(inspect.signature(module.forward).parameters),
    )


def context_tokens(config: Any) -> int | None:
    """Most tokens of prompt and completion together that the model has positions for; None: no limit."""
    text = config.get_text_config(decoder=True)
    if text.model_type in NO_POSITION_LIMIT and getattr(text, "alibi", True):
        return None
    return next((int(value) for name in CONTEXT_NAMES if (value := getattr(text, name, None))), None)


def read_config(path: Path) -> Any:
    """The model's configuration; ModelError where this transformers does not know the architecture."""
    try:
        return AutoConfig.from_pretrained(config_folder(path))
    except (ValueError, OSError, KeyError) as problem:
        hint = "a newer architecture needs a newer transformers"
        raise ModelError(f"config.json: {_first_line(problem)}", where=str(path), hint=hint) from None


def own_sampling(path: Path) -> dict[str, float]:
    """What the model's generation_config.json says of sampling, where it samples at all: as `generate()` takes it."""
    file = path / "generation_config.json"
    if not file.is_file():
        return {}
    content = json.loads(file.read_text())
    names: tuple[str, ...] = ("repetition_penalty",)
    if content.get("do_sample"):
        names += ("temperature", "top_p", "top_k")
        content.setdefault("temperature", 1.0)
    return {name: content[name] for name in names if content.get(name) is not None}


def _device_map(device_map: str) -> str:
    # "auto" without a GPU would bring accelerate's dispatch hooks for nothing.
    return "cpu" if device_map == "auto" and not torch.accelerator.is_available() else device_map


def _quantization(quantize: str) -> BitsAndBytesConfig:
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)


def _end_tokens(config: GenerationConfig, tokenizer: Any) -> frozenset[int]:
    own = config.eos_token_id
    tokens = set(own if isinstance(own, list) else [own])
    return frozenset(token for token in {*tokens, tokenizer.eos_token_id} if token is not None)


def _cohort_layers(module: Any) -> tuple[bool, ...] | None:
    if module._is_stateful or not module._supports_default_dynamic_cache():
        return None
    layers = DynamicCache(config=module.config).layers
    attention = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
    # Exactly these: their subclasses keep more than keys and values.
    return (
        tuple(type(layer) is not DummyLayer for layer in layers)
        if all(type(layer) in attention for layer in layers)
        else None
    )


def quiet() -> None:
    """What the libraries say on loading is for their developers; errors come as exceptions."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, tells standard output


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().split("\n")[0] or type(problem).__name__
