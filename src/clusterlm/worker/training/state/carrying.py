"""A checkpoint that another number of processes wrote, or another strategy: carried over, weight by weight.

The first process reads each weight whole, with what the optimizer knows of it, and each process keeps its part.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor

from clusterlm.errors import RunError
from clusterlm.worker.training.state.checkpoints import Checkpoint

Kind = Literal["whole", "fsdp", "zero", "zero3"]
KINDS: dict[str, Kind] = {
    "single": "whole",
    "ddp": "whole",
    "fsdp": "fsdp",
    "zero1": "zero",
    "zero2": "zero",
    "zero3": "zero3",
}
"""How a strategy writes its checkpoints. ZeRO-1 and -2 keep the same: neither cuts the weights."""
WEIGHTS = "weights"
Parts = dict[str, torch.Tensor]
"""Of one weight: its values as `weights`, and the optimizer's: exp_avg, exp_avg_sq ..., step."""
Reader = Callable[[str], Parts]


def must_be_carried(checkpoint: Checkpoint, strategy: str, processes: int) -> bool:
    """Else the libraries load it: FSDP cuts its checkpoints anew for any number of processes, ZeRO does not."""
    kind = kind_of(checkpoint.path)
    return kind != KINDS[strategy] or (kind in ("zero", "zero3") and checkpoint.processes != processes)


def kind_of(path: Path) -> Kind:
    if (path / "pytorch_model_fsdp_0").exists():
        return "fsdp"
    if any(path.glob("global_step*/zero_pp_rank_*_model_states.pt")):
        return "zero3"
    return "zero" if any(path.glob("global_step*")) else "whole"


@torch.no_grad()
def carry(checkpoint: Checkpoint, trainer: Any) -> None:
    """Into a trainer whose model and optimizer are ready; by all its processes."""
    kind = kind_of(checkpoint.path)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    scratch = checkpoint.path.with_name("carried.unfinished")
    if is_first:
        of_optimizer = _order_of_optimizer(trainer, model, trained)
        read = {"whole": _whole, "fsdp": _fsdp, "zero": _zero, "zero3": _zero}[kind](checkpoint, scratch, of_optimizer)
    place = _placing(trainer)
    for name, weight in trained.items():
        parts = _shared(read(name) if is_first else None)
        _check(checkpoint, name, parts)
        place(weight, parts)
    if is_first:
        shutil.rmtree(scratch, ignore_errors=True)
    groups = trainer.optimizer.param_groups
    scheduler = torch.load(checkpoint.path / "scheduler.pt", weights_only=True)
    # All groups learn at one rate, and DeepSpeed drops those without a weight.
    trainer.lr_scheduler.load_state_dict(
        {key: value[:1] * len(groups) if isinstance(value, list) else value for key, value in scheduler.items()}
    )
    for group in groups:
        group["lr"] = trainer.lr_scheduler.get_last_lr()[0]


def _order_of_optimizer(trainer: Any, model: Any, trained: dict[str, Any]) -> list[str]:
    """The names behind an optimizer's numbers: as the trainer groups them."""
    decaying = set(trainer.get_decay_parameter_names(model))
    return [*(name for name in trained if name in decaying), *(name for name in trained if name not in decaying)]


def _shared(parts: Parts | None) -> Parts:
    """What the first process read, on all."""
    if not dist.is_initialized():
        assert parts is not None
        return parts
    shapes: list[Any] = [parts and {key: (part.shape, part.dtype) for key, part in parts.items()}]
    dist.broadcast_object_list(shapes)
    found = {}
    for key, (shape, dtype) in shapes[0].items():
        found[key] = parts[key].contiguous() if parts else torch.empty(shape, dtype=dtype)
        dist.broadcast(found[key], 0)
    return found


# ------------------------------------------------------------------------------------------------------------- reading


def _stored(name: str) -> str:
    """PEFT leaves the name of the adapter out of the names of its weights."""
    return name.replace(".default.", ".")


def _whole(checkpoint: Checkpoint, scratch: Path, of_optimizer: list[str]) -> Reader:
    files: list[Any] = [safe_open(file, "pt") for file in checkpoint.path.glob("*.safetensors")]
    place = {name: file for file in files for name in file.keys()}  # noqa: SIM118 safe_open is no mapping
    states = torch.load(checkpoint.path / "optimizer.pt", weights_only=True, mmap=True)["state"]
    number = {name: number for number, name in enumerate(of_optimizer)}

    def read(name: str) -> Parts:
        key = _stored(name)
        if key not in place:
            raise _lacks(checkpoint, name)
        state = states.get(number[name], {})
        return {WEIGHTS: place[key].get_tensor(key), **{key: torch.as_tensor(part) for key, part in state.items()}}

    return read


def _fsdp(checkpoint: Checkpoint, scratch: Path, of_optimizer: list[str]) -> Reader:
    folders = [checkpoint.path / name for name in ("pytorch_model_fsdp_0", "optimizer_0")]
    known = [FileSystemReader(folder).read_metadata().state_dict_metadata for folder in folders]

    def read(name: str) -> Parts:
        found: Parts = {}
        for folder, metadata in zip(folders, known, strict=True):
            wanted = {key: metadata[key] for key in metadata if key in (f"model.{name}", f"model.{_stored(name)}")}
            wanted |= {key: metadata[key] for key in metadata if key.startswith(f"optimizer.state.{name}.")}
            tensors = {
                key: torch.empty(one.size, dtype=one.properties.dtype)
                for key, one in wanted.items()
                if isinstance(one, TensorStorageMetadata)
            }
            load(tensors, storage_reader=FileSystemReader(folder), no_dist=True)
            for key, tensor in tensors.items():
                found[WEIGHTS if key.startswith("model.") else key.rpartition(".")[2]] = tensor
        if WEIGHTS not in found:
            raise _lacks(checkpoint, name)
        return found

    return read


def _zero(checkpoint: Checkpoint, scratch: Path, of_optimizer: list[str]) -> Reader:
    """By DeepSpeed's own program, which puts the parts of all processes together: a folder for each weight."""
    (cut,) = checkpoint.path.glob("global_step*")
    program = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state", "--no_strict"]
    files = ["--input_folder", str(cut), "--output_folder", str(scratch)]
    done = subprocess.run([*program, *files], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).split("\n")[-1]
        problem = f"was written by {checkpoint.processes} processes, and DeepSpeed cannot put it together: {said}"
        raise RunError(problem, where=str(checkpoint.path), hint=_as_before(checkpoint))

    def read(name: str) -> Parts:
        found = {}
        for file in (scratch / "zero" / name).glob("*.pt"):
            content = torch.load(file, weights_only=False)  # our own checkpoint, whose digest was compared
            tensor = content["param"] if isinstance(content, dict) else torch.as_tensor(content)
            found[WEIGHTS if file.stem == "fp32" else file.stem] = tensor
        if WEIGHTS not in found:
            raise _lacks(checkpoint, name)
        return {"step": torch.tensor(float(checkpoint.step)), **found}

    return read


def _check(checkpoint: Checkpoint, name: str, parts: Parts) -> None:
    """Adam's, and what is as plain: other optimizers keep sums over rows, or 8 bits in blocks."""
    odd = [key for key, part in parts.items() if part.dim() and part.numel() != parts[WEIGHTS].numel()]
    if odd:
        problem = f"holds {', '.join(odd)} of {name}, which cannot be cut otherwise than it was"
        raise RunError(problem, where=str(checkpoint.path), hint=_as_before(checkpoint))


def _as_before(checkpoint: Checkpoint) -> str:
    return f"continue with the strategy that wrote it, on {checkpoint.processes} GPUs"


def _lacks(checkpoint: Checkpoint, name: str) -> RunError:
    problem = f"lacks {name}: it was written by {checkpoint.processes} processes, as {kind_of(checkpoint.path)}"
    return RunError(problem, where=str(checkpoint.path), hint=_as_before(checkpoint))


# ------------------------------------------------------------------------------------------------------------- placing

Placing = Callable[[Any, Parts], None]


def _placing(trainer: Any) -> Placing:
    if not trainer.is_deepspeed_enabled:
        return _in_torch(trainer.optimizer)
    engine = trainer.model_wrapped
    cut = engine.optimizer
    return _in_zero3(cut) if engine.zero_optimization_partition_weights() else _in_zero(cut)


def _in_torch(optimizer: Any) -> Placing:
    """Whole weights, and those that FSDP cut."""
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)

    def place(weight: Any, parts: Parts) -> None:
        def own(part: torch.Tensor) -> torch.Tensor:
            part = part.to(weight.device).reshape(weight.shape)
            if not isinstance(weight, DTensor):
                return part
            return distribute_tensor(part, weight.device_mesh, weight.placements, src_data_rank=None)

        weight.copy_(own(parts[WEIGHTS].to(weight.dtype)))
        optimizer.state[weight] = {
            key: own(part) if part.dim() else part.to(weight.device if on_device else "cpu")
            for key, part in parts.items()
            if key != WEIGHTS
        }

    return place


def _in_zero(cut: Any) -> Placing:
    """ZeRO-1 and -2: whole weights; of each, this process may hold a fragment of the optimizer's state."""

    def place(weight: Any, parts: Parts) -> None:
        weight.copy_(parts[WEIGHTS])
        fragment = weight._hp_mapping
        if fragment is None:
            return
        flat = cut.single_partition_of_fp32_groups[fragment.param_group_index]
        here, there = fragment.hp_fragment_address, fragment.lp_fragment_address
        state = cut.optimizer.state[flat]
        for key, part in parts.items():
            if part.dim():
                target = flat if key == WEIGHTS else state.setdefault(key, torch.zeros_like(flat))
                own = part.flatten().narrow(0, there.start, there.numel)
                target.data.narrow(0, here.start, here.numel).copy_(own)
            else:
                state[key] = part.clone()

    return place


def _in_zero3(cut: Any) -> Placing:
    rank, processes = dist.get_rank(), dist.get_world_size()

    def place(weight: Any, parts: Parts) -> None:
        group, start, count = cut.grad_position[cut.get_param_id(weight)]
        flat = cut.fp32_partitioned_groups_flat[group]
        state = cut.optimizer.state[flat]
        for key, part in parts.items():
            if part.dim() == 0:
                state[key] = part.clone()
                continue
            own = _even(part, processes)[rank][:count]
            target = flat if key == WEIGHTS else state.setdefault(key, torch.zeros_like(flat))
            target.data.narrow(0, start, count).copy_(own)
            if key == WEIGHTS:
                weight.ds_tensor.copy_(own.reshape(weight.ds_tensor.shape))

    return place


def _even(part: torch.Tensor, processes: int) -> torch.Tensor:
    """Flat, filled up so that each process has as much."""
    flat = part.flatten()
    each = -(-flat.numel() // processes)
    return torch.nn.functional.pad(flat, (0, each * processes - flat.numel())).view(processes, each)
