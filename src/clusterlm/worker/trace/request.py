"""What is asked of the referee and what it answers, as values and as JSON. Loads no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from clusterlm.errors import UsageError, did_you_mean

Task = Literal["generate", "train"]
Method = Literal["full", "lora"]
Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["auto", "sdpa", "eager"]
Optimizer = Literal["adamw", "adamw_fused", "sgd", "adafactor"]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One step of one rank. `config` is the content of config.json; a quantization in it is not traced.

    `sequence_tokens`: of a sample when training, of the prompt when generating. `autocast`: computed in bfloat16
    whatever the weights are. `attention` auto: as transformers chooses, sdpa where the architecture has it. `padded`:
    samples of unequal length, so that attention needs a mask. `foreach`: all parameters at once in adamw and sgd, which
    takes temporary copies of them. `fsdp_ranks` > 1: FSDP2 as accelerate sets it up, where autocast keeps what is
    trained in float32, and gathers and reduces in bfloat16. `exact`: every layer is traced; otherwise two shallow
    models, extrapolated.
    """

    config: dict[str, Any]
    task: Task
    sequence_tokens: int
    batch: int = 1
    dtype: Dtype = "bfloat16"
    attention: Attention = "auto"
    padded: bool = False
    new_tokens: int = 1
    method: Method = "full"
    autocast: bool = False
    gradient_checkpointing: bool = False
    optimizer: Optimizer = "adamw"
    foreach: bool = False
    lora_rank: int = 16
    lora_targets: str | tuple[str, ...] = ALL_LINEAR
    fsdp_ranks: int = 1
    exact: bool = False

    def __post_init__(self) -> None:
        for name in ("sequence_tokens", "batch", "new_tokens", "lora_rank", "fsdp_ranks"):
            if getattr(self, name) < 1:
                raise UsageError(f"{getattr(self, name)} is less than 1", where=name)
        if self.task == "generate" and self.autocast:
            raise UsageError("generation computes in the weights' type", where="autocast", hint="set dtype")
        if self.task == "generate" and self.fsdp_ranks > 1:
            raise UsageError("generation is not sharded by FSDP", where="fsdp_ranks", hint="fsdp_ranks 1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TraceRequest:
        """UsageError for an unknown name, a missing one, or a value of the wrong kind."""
        hints = get_type_hints(cls)
        for name, value in content.items():
            if name not in hints:
                raise UsageError("there is no such setting", where=name, hint=did_you_mean(name, hints))
            _check_kind(name, value, hints[name])
        missing = [name for name in ("config", "task", "sequence_tokens") if name not in content]
        if missing:
            raise UsageError(f"{', '.join(missing)} missing", where="trace request")
        targets = content.get("lora_targets", ALL_LINEAR)
        return cls(**{**content, "lora_targets": targets if isinstance(targets, str) else tuple(targets)})


@dataclass(frozen=True, slots=True)
class Trace:
    """Bytes of live tensors on one rank; what the allocator, the CUDA context and NCCL take is not in it.

    `static_bytes`: parameters and buffers. `parameters`, `trainable`: numbers of the whole model, tied ones once.
    `phases`: the peak of prefill and decode, or of forward, backward and optimizer in a step that has optimizer states.
    `traced_layers`: how deep the traced models were; one number where every layer was traced.
    """

    static_bytes: int
    parameters: int
    trainable: int
    phases: dict[str, int]
    peak_bytes: int
    phase_of_peak: str
    traced_layers: tuple[int, ...]
    attention: str
    experts: str | None
    seconds: float
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Trace:
        known = {field.name: content[field.name] for field in fields(cls)}
        return cls(**{**known, "traced_layers": tuple(content["traced_layers"])})


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of execution between two events. `layer` counts from 0; None outside the layers."""

    phase: str
    event: str
    layer: int | None
    entry_bytes: int
    peak_bytes: int
    exit_bytes: int


def _check_kind(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{value!r} is not possible", where=name, hint=did_you_mean(str(value), get_args(kind)))
        return
    if name == "lora_targets":
        fits = isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(x, str) for x in value))
    elif name == "config":
        fits = isinstance(value, dict)
    else:
        fits = type(value) is kind
    if not fits:
        raise UsageError(f"{value!r} is of the wrong kind", where=name)
