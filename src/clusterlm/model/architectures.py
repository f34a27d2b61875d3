"""From the config.json of any known architecture to its exact sizes, without torch and without transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from clusterlm.errors import ModelError, nearest
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder
from clusterlm.model.dense import DENSE
from clusterlm.model.encoder_decoder import ENCODER_DECODERS
from clusterlm.model.encoders import ENCODERS
from clusterlm.model.experts import EXPERTS
from clusterlm.model.hybrids import HYBRIDS
from clusterlm.model.quantisation import with_quantisation
from clusterlm.model.shape import ModelShape
from clusterlm.model.wrappers import WRAPPERS

DECODERS: dict[str, Decoder] = {**DENSE, **EXPERTS, **HYBRIDS, **ENCODERS}


def known_architectures() -> list[str]:
    """Every `model_type` that shape_from_config understands."""
    return sorted({**DECODERS, **WRAPPERS, **ENCODER_DECODERS})


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of the model whose config.json is `config`; raises ModelError where it is incomplete or unknown."""
    values = Config(config, name)
    model_type = values.text("model_type")
    if model_type is None:
        raise values.error("config.json lacks model_type")
    try:
        return with_quantisation(_shape(values, model_type), values)
    except (AttributeError, IndexError, TypeError, ValueError, ZeroDivisionError, re.error) as problem:
        # A file edited by hand can contradict itself in more ways than sanity.py names.
        raise values.error(f"config.json contradicts itself ({problem})") from problem


def _shape(values: Config, model_type: str) -> ModelShape:
    if model_type in DECODERS:
        return DECODERS[model_type].shape(values, model_type)
    if model_type in WRAPPERS:
        return WRAPPERS[model_type].shape(values, model_type, DECODERS)
    if model_type in ENCODER_DECODERS:
        return ENCODER_DECODERS[model_type].shape(values, model_type)
    raise _unknown(model_type, values.model)


def _unknown(model_type: str, name: str) -> ModelError:
    close = nearest(model_type, known_architectures())
    likely = f"did you mean {close!r}? " if close else ""
    hint = f"{likely}`clusterlm plan --gpu NAME --trace` counts any architecture that the installed transformers knows"
    return ModelError(f"its architecture {model_type!r} is not in clusterlm's table", where=name, hint=hint)
