"""How a checkpoint's matrices are stored: `quantization_config` of config.json, and which matrices it spares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from clusterlm.errors import ModelError
from clusterlm.model.config import Config
from clusterlm.model.shape import ModelShape, Quantisation
from clusterlm.model.spared import spared_linears

INTEGER_METHODS = {
    "gptq": "gptq",
    "gptq_marlin": "gptq",
    "awq": "awq",
    "awq_marlin": "awq",
    "intel/auto-round": "gptq",
    "auto-round": "gptq",
}
FORMATS_OF_FULL_SIZE = ("dense", "fakequantized", "frozen")
SPARE_KEYS = ("modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules", "ignored_layers")
HEAD = "lm_head"


def with_quantisation(shape: ModelShape, config: Config) -> ModelShape:
    """The shape with what its config.json says of quantisation; raises ModelError on a method that is not known."""
    settings = quantisation_settings(config)
    return shape if settings is None else replace(shape, quantisation=_quantisation(settings, shape))


def quantisation_settings(config: Config) -> Config | None:
    """The section, wherever the file keeps it; its `quant_method` is always set."""
    for holder in (config, config.section("text_config"), config.section("llm_config")):
        if holder.value("quantization_config"):
            section = holder.section("quantization_config")
            method = "compressed-tensors" if section.value("config_groups") else "bitsandbytes"
            return section.with_defaults({"quant_method": method})
    if config.value("compression_config"):  # compressed-tensors before 0.7
        outer = config.section("compression_config")
        inner = outer.section("quantization_config") if outer.value("quantization_config") else outer
        return inner.with_defaults({"quant_method": "compressed-tensors"}) if inner.value("config_groups") else None
    return None


def _quantisation(settings: Config, shape: ModelShape) -> Quantisation | None:
    method = (settings.text("quant_method") or "").lower()
    if method in INTEGER_METHODS:
        return _grouped_integers(INTEGER_METHODS[method], settings, shape)
    if method in ("fp8", "fbgemm_fp8"):
        return _eight_bit_floats(settings, shape)
    if method == "modelopt":
        return _modelopt(settings, shape)
    if method == "bitsandbytes":
        return _bitsandbytes(settings, shape)
    if method == "mxfp4":
        return _spared(Quantisation("mxfp4", 4, 32), settings, shape)
    if method == "compressed-tensors":
        return _compressed_tensors(settings, shape)
    raise ModelError(
        f"its weights are stored by {method!r}, whose sizes clusterlm does not know",
        where=settings.model,
        hint="there is: gptq, awq, fp8, fbgemm_fp8, modelopt, bitsandbytes, mxfp4, compressed-tensors",
    )


def _grouped_integers(method: str, settings: Config, shape: ModelShape) -> Quantisation:
    """GPTQ and AWQ keep head and embedding as they were, but where GPTQ's file says `lm_head`."""
    if "awq" in (settings.text("packing_format") or ""):
        method = "awq"
    bits = settings.optional_integer("bits") or settings.integer("w_bit")
    size = settings.value("group_size") if "group_size" in settings.values else settings.value("q_group_size")
    found = Quantisation(method, bits, _group(size))
    return _spared(found, settings, shape, keeps_head=not settings.flag(HEAD))


def _eight_bit_floats(settings: Config, shape: ModelShape) -> Quantisation:
    block = settings.items("weight_block_size")
    rows, columns = block or (1, None)
    # Published block checkpoints of tied models carry the head a second time, and transformers loads both: the peaks of
    # Qwen3-1.7B-FP8 and Qwen3-4B-FP8 on https://qwen.readthedocs.io (speed benchmark) lie one token table higher.
    own_head = bool(block) and shape.tied and shape.head_parameters == 0
    return _spared(Quantisation("fp8", 8, columns, rows, own_head=own_head), settings, shape)


def _modelopt(settings: Config, shape: ModelShape) -> Quantisation:
    inner = settings.section("quantization") if settings.value("quantization") else settings
    algorithm = (inner.text("quant_algo") or settings.text("quant_algo") or "").upper()
    known = {"FP8": Quantisation("fp8", 8), "NVFP4": Quantisation("nvfp4", 4, 16)}
    if algorithm not in known:
        raise settings.error(f"config.json has quant_algo = {algorithm!r}; there is: {', '.join(known)}")
    return _spared(known[algorithm], inner, shape)


def _bitsandbytes(settings: Config, shape: ModelShape) -> Quantisation:
    if settings.flag("load_in_4bit"):
        # fp4 takes the same bytes as nf4: only the sixteen values differ.
        method = "nf4-dq" if settings.flag("bnb_4bit_use_double_quant") else "nf4"
        return _spared(Quantisation(method, 4, 64), settings, shape)
    if settings.flag("load_in_8bit"):
        return _spared(Quantisation("int8", 8), settings, shape)
    raise settings.error("config.json has a quantization_config without quant_method, load_in_4bit or load_in_8bit")


def _compressed_tensors(settings: Config, shape: ModelShape) -> Quantisation | None:
    if settings.text("format") in FORMATS_OF_FULL_SIZE:
        return None
    groups = [Config(group, settings.model) for group in settings.section("config_groups").values.values()]
    found = {_format_of_weights(group.section("weights")) for group in groups if group.value("weights")}
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(sorted(f"{one.method} of {one.bits} bits" for one in found))
        raise ModelError(
            f"its matrices are stored in several formats: {names}",
            where=settings.model,
            hint="`clusterlm plan --gpu NAME --trace` counts what the installed transformers makes of it",
        )
    targets = [target for group in groups for target in group.items("targets")] or ["Linear"]
    return _spared(found.pop(), settings, shape, targets, keeps_head=False)


def _format_of_weights(weights: Config) -> Quantisation:
    bits, kind = weights.integer("num_bits"), weights.text("type") or "int"
    strategy, size = weights.text("strategy"), _group(weights.value("group_size"))
    if strategy == "block":
        rows, columns = weights.items("block_structure") or (128, 128)
        return Quantisation("fp8" if kind == "float" else "compressed-int", bits, columns, rows)
    if kind == "float" and bits == 4:
        return Quantisation("mxfp4" if size == 32 else "nvfp4", 4, size or 16)
    if kind == "float" and bits == 8:
        return Quantisation("fp8", 8, size)
    if kind == "int":
        return Quantisation("compressed-int", bits, size)
    raise weights.error(f"config.json has weights of type {kind!r} with {bits} bits, which no engine stores")


def _group(size: Any) -> int | None:
    """None where one scale serves a whole row, which files write as -1 or null."""
    return size if isinstance(size, int) and size > 0 else None


def _spared(
    found: Quantisation,
    settings: Config,
    shape: ModelShape,
    targets: Iterable[str] = ("Linear",),
    keeps_head: bool | None = None,
) -> Quantisation:
    """`keeps_head` None: as transformers, which spares the head unless the file lists what to spare."""
    listed = [str(name) for key in SPARE_KEYS for name in settings.items(key)]
    if keeps_head is None:
        keeps_head = not listed
    ends = ["embedding"]
    if keeps_head or shape.tied or any(HEAD in name for name in listed):
        ends.append(HEAD)
    linears = spared_linears(shape, listed, list(targets))
    dynamic = settings.value("dynamic")
    if isinstance(dynamic, Mapping):  # GPTQModel: "-:" before a pattern spares what it matches
        patterns = [f"re:{name[2:]}" for name in dynamic if name.startswith("-:")]
        linears += spared_linears(shape, patterns, ["Linear"])
    return replace(found, skipped=(*dict.fromkeys(linears), *ends))
