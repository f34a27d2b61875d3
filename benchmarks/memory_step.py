"""One case of benchmarks.memory_on_gpu, in a process of its own: a random model takes real steps, peaks are read off.

python -m benchmarks.memory_step DEVICE < CASE.json: what was measured, as JSON in the last line. On cuda torch's own
counters are read; on cpu the referee counts the real tensors, so that all but the counters is tested without a GPU.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from benchmarks.memory_cases import Case, config_of, request_of
from clusterlm.worker.trace import TraceRequest, build, referee, steps
from clusterlm.worker.trace.storage import StorageTracker


class Counter(Protocol):
    """A new phase begins; None: what follows is not measured."""

    def phase(self, name: str | None) -> None: ...


class CudaCounter:
    """torch.cuda's highest allocation in each phase, and the highest reservation in any."""

    def __init__(self) -> None:
        self.phases: dict[str, int] = {}
        self.reserved = 0
        self._running: str | None = None

    def phase(self, name: str | None) -> None:
        torch.cuda.synchronize()
        if self._running is not None:
            self.phases[self._running] = torch.cuda.max_memory_allocated()
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()
        self._running = name


class Silent:
    def phase(self, name: str | None) -> None:
        return None


@dataclass(frozen=True)
class Measured:
    """Bytes. `card`: all that is in use on the GPU after the step, by mem_get_info, and `card_before` with the context
    alone; None on the CPU."""

    phases: dict[str, int]
    reserved: int | None
    card: int | None
    card_before: int | None
    seconds: float


def measure(case: Case, device: str) -> Measured:
    """The second of two equal steps: the first leaves optimizer states and the libraries' workspaces."""
    begun = time.monotonic()
    torch.manual_seed(0)
    request = request_of(case)
    before = card_bytes() if device == "cuda" else None
    with torch.device(device), warnings.catch_warnings(action="ignore"):
        model = random_model(case, request)
        build.prepare(model, request)
        if device == "cpu":
            return Measured(count_real_tensors(model, request), None, None, None, round(time.monotonic() - begun, 1))
        counter = CudaCounter()
        take_steps(model, request, counter)
    return Measured(counter.phases, counter.reserved, card_bytes(), before, round(time.monotonic() - begun, 1))


def card_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def count_real_tensors(model: Any, request: TraceRequest) -> dict[str, int]:
    tracker = StorageTracker()
    tracker.count(build.tensors(model))
    # bitsandbytes keeps scales as attributes of the packed weight.
    states = [state for weight in model.parameters() if (state := getattr(weight, "quant_state", None)) is not None]
    tracker.count(tensor for state in states for tensor in (state.absmax, state.code))
    with tracker:
        take_steps(model, request, tracker)
    return referee.peaks(tracker.segments)


def take_steps(model: Any, request: TraceRequest, counter: Counter) -> None:
    if request.task == "generate":
        for one in (Silent(), counter):
            gc.collect()
            # generate() reads of a tracker no more than phase().
            steps.generate(model, request, one)  # type: ignore[arg-type]
        return
    optimizer = steps.make_optimizer(model, request)
    for one in (Silent(), counter):
        gc.collect()
        train_step(model, request, optimizer, one)


def train_step(model: Any, request: TraceRequest, optimizer: torch.optim.Optimizer, counter: Counter) -> None:
    """As the referee's, which computes on the CPU alone."""
    vocabulary = build.transformer(model).config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(0, vocabulary, (request.batch, request.sequence_tokens))
    labels = torch.zeros_like(ids)
    counter.phase("forward")
    with torch.autocast(ids.device.type, dtype=torch.bfloat16) if request.autocast else nullcontext():
        loss = model(input_ids=ids, labels=labels).loss
    counter.phase("backward")
    loss.backward()
    counter.phase("optimizer")
    optimizer.step()
    counter.phase(None)
    optimizer.zero_grad(set_to_none=True)


def random_model(case: Case, request: TraceRequest) -> Any:
    config = build.read_config(config_of(case))
    if case.method != "qlora":
        return build.build_here(request, config)
    import peft

    model = build.build_here(TraceRequest(**{**asdict(request), "method": "full"}), config)
    pack_in_four_bits(model)
    settings = peft.LoraConfig(r=request.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, settings)


def pack_in_four_bits(model: Any) -> None:
    """What transformers does while it loads with BitsAndBytesConfig, nf4: every linear layer but the head."""
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is not torch.nn.Linear or linear is head:
                continue
            packed = Linear4bit(
                linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
            )
            # Linear4bit would quantise the scales as well, which BitsAndBytesConfig does not unless it is told to.
            packed.weight = Params4bit(
                linear.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4"
            )
            packed.bias = linear.bias
            setattr(parent, name, packed.to(linear.weight.device))
    model.is_loaded_in_4bit = True


def main() -> None:
    case = Case(**json.load(sys.stdin))
    try:
        found = {"status": "measured", **asdict(measure(case, sys.argv[1]))}
    except torch.OutOfMemoryError as problem:
        found = {"status": "out of memory", "message": str(problem).split("\n")[0]}
    except ModuleNotFoundError as problem:
        found = {"status": f"skipped: {problem.name} is not installed"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
