"""GenerateSpec: a file of prompts in, a file of answers out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from clusterlm.spec.base import TaskSpec


class GenerateSpec(TaskSpec):
    """A file of prompts in, a file of answers out. None means: as the model's own generation_config.json says."""

    NOT_IN_RESULTS: ClassVar[frozenset[str]] = frozenset(
        ("output", "prompt_response", "prompt_as", "max_batch_tokens", "device_map", "engine")
    )

    task: Literal["generate"] = "generate"

    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: int = 0
    n: Annotated[int, Field(ge=1)] = 1
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    chat: bool | None = None
    system: str | None = None

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["none", "int8", "nf4"] = "none"
    device_map: str = "auto"
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    engine: Literal["auto", "transformers"] = "auto"

    prompt_response: bool = False
    prompt_as: Literal["text", "hash"] = "text"
