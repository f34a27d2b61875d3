"""What safetensors files say of themselves: names, types and shapes of tensors, read from their headers alone."""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clusterlm.errors import ModelError
from clusterlm.model.shape import ModelShape

INDEX = "model.safetensors.index.json"
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types that weights are computed in; what else is stored is a quantiser's."""

LONGEST_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself

# Buffers that early versions of transformers saved among the weights.
BUFFER = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|attn\.bias|attention\.bias|position_ids)$")
HEAD = re.compile(r"^(lm_head|output|embed_out|model\.lm_head|language_model\.lm_head)\.weight$")
PREDICTOR = re.compile(r"^mtp\.")
PRETRAINING = re.compile(r"^(cls|lm_head|vocab_\w+|qa_outputs|classifier|discriminator_predictions|generator_\w+)\.")
LAYER = re.compile(r"\b(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Stored:
    """Tensors of a model's files that its class keeps as parameters."""

    parameters: int
    dtype: str


def with_stored_sizes(shape: ModelShape, folder: Path) -> ModelShape:
    """The shape with what its files hold, where they are all there and nothing is packed; the difference is said."""
    stored = None if shape.quantisation else stored_sizes(shape, folder)
    if stored is None:
        return shape
    difference = stored.parameters - shape.parameters
    note = f"{shape.source}; its files hold {stored.parameters:,} parameters"
    if difference == 0:
        return replace(shape, dtype=stored.dtype, source=f"{note}, as config.json makes them")
    more = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than config.json makes"
    # What the files lack is made anew when the model is loaded, so it takes memory all the same.
    other = shape.other_parameters + max(0, difference)
    return replace(shape, dtype=stored.dtype, other_parameters=other, source=f"{note}, {more}")


def stored_sizes(shape: ModelShape, folder: Path) -> Stored | None:
    """None where there are no safetensors, some are missing, or they hold a quantiser's packed numbers."""
    files = _weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in read_header(file).items()}
    kept = {name: tensor for name, tensor in tensors.items() if _is_parameter(name, shape)}
    if not kept or any(tensor.get("dtype") not in DTYPES for tensor in kept.values()):
        return None
    elements: Counter[str] = Counter()
    for tensor in kept.values():
        elements[DTYPES[tensor["dtype"]]] += math.prod(tensor["shape"])
    return Stored(elements.total(), elements.most_common(1)[0][0])


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Each tensor's `dtype` and `shape`; raises ModelError where the file is none of safetensors."""
    damaged = ModelError("is no safetensors file, or damaged", where=str(file), hint="copy or download it again")
    with open(file, "rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise damaged
        (length,) = struct.unpack("<Q", start)
        if length > LONGEST_HEADER_BYTES:
            raise damaged
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise damaged from None
    if not isinstance(header, dict):
        raise damaged
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError):
            raise ModelError("cannot be read as an index of weights", where=str(folder / INDEX)) from None
        files = [folder / name for name in sorted(set(weight_map.values()))]
        return files if all(file.is_file() for file in files) else []
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _is_parameter(name: str, shape: ModelShape) -> bool:
    """Neither a buffer, nor a second copy of a tied table, nor a layer beyond the last, which only predicts ahead."""
    if BUFFER.search(name) or PREDICTOR.match(name):
        return False
    is_encoder = not shape.tied and not shape.head_parameters
    if is_encoder and PRETRAINING.match(name):
        return False
    if HEAD.match(name) and (shape.tied or not shape.head_parameters):
        return False
    layer = LAYER.search(name)
    return layer is None or "vision" in name or "visual" in name or int(layer[1]) < _longest_stack(shape)


def _longest_stack(shape: ModelShape) -> int:
    return max(len(shape.layers), len(shape.encoder_layers))
