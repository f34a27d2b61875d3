"""Saver: saves a training between two steps. The files are written while the steps wait; they are brought to the disk,
read back and named while the steps go on, for that takes longer.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem
from clusterlm.units import show_bytes
from clusterlm.worker.training.lines import append_line
from clusterlm.worker.training.state import checkpoints
from clusterlm.worker.training.state.checkpoints import UNFINISHED

SAVED = "saved.jsonl"
"""Of an attempt: a line for each checkpoint that is whole."""
OS_ERROR = re.compile(r"os error (\d+)")
"""As Rust tells the number of what the operating system refused."""
TORCH_CANNOT_WRITE = re.compile(r"inline_container|iostream error|PytorchStreamWriter")
"""torch.save tells no number. Source: torch 2.13, caffe2/serialize/inline_container.cc"""
BYTES_PER_SECOND = 200e6
"""To write and to read back, before it was measured: of a busy shared disk."""


class Saver:
    """Of several processes each has one, and the first gives the checkpoints their names."""

    def __init__(self, folder: Path, keep: int, *, is_first: bool) -> None:
        self._folder = folder
        self._keep = keep
        self._is_first = is_first
        self._account: Path | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sealing")
        self._sealing: Future[None] | None = None
        self._estimate = self._longest = 0.0

    @property
    def longest_seconds(self) -> float:
        """From the first byte to the name; before the first checkpoint an estimate."""
        return self._longest or self._estimate

    def write_to(self, account: Path) -> None:
        """The file for a line a checkpoint."""
        self._account = account

    def unfinished(self, step: int) -> Path:
        path = checkpoints.folder_of(self._folder, step)
        return path.with_name(path.name + UNFINISHED)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: object, trace: TracebackType | None) -> None:
        """What was saved last is whole behind it; where another problem ended the work, that one is raised."""
        with contextlib.suppress(*([RunError] if kind else [])):
            self.settle()
        self._thread.shutdown()

    def save(self, step: int, processes: int, write: Callable[[], None]) -> None:
        """`write` writes what is to be saved into `unfinished`, on each process its own; RunError where it cannot."""
        self.settle()
        began = time.monotonic()
        if self._is_first:
            shutil.rmtree(self.unfinished(step), ignore_errors=True)
        self._meet()
        with self._refusals(step):
            write()
        self._meet()
        if self._is_first:
            self._sealing = self._thread.submit(self._seal, step, processes, began)

    def look(self) -> None:
        """RunError where what was saved last could not be; without waiting for it."""
        if self._sealing is not None and self._sealing.done():
            self.settle()

    def settle(self) -> None:
        """Returns when what was saved last is whole on the disk; RunError where it cannot be."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def estimate(self, checkpoint_bytes: int) -> None:
        """Before the first is written, how long one takes."""
        self._estimate = checkpoint_bytes / BYTES_PER_SECOND

    def check_room(self, checkpoint_bytes: int, result_bytes: int) -> None:
        """RunError where the disk has none for what will be there at once: those kept and a new one, or the result."""
        missing = max(0, self._keep - len(checkpoints.named(self._folder)))
        needed = max((missing + 1) * checkpoint_bytes, missing * checkpoint_bytes + result_bytes)
        free = shutil.disk_usage(self._folder.parent).free
        if free < needed:
            problem = (
                f"{show_bytes(free)} are free, and {show_bytes(needed)} needed:"
                f" {self._keep} checkpoints of {show_bytes(checkpoint_bytes)}, and room to write one more"
            )
            hint = "free space, lower --keep-checkpoints, or name an OUTPUT on another disk"
            raise RunError(problem, where=str(self._folder), hint=hint)

    @contextlib.contextmanager
    def told_of(self, what: str, where: Path, unfinished: Path) -> Iterator[None]:
        """What the disk refuses, as a RunError; nothing unfinished stays."""
        try:
            yield
        except (Exception, CheckpointException) as problem:
            said = refusal(problem)
            if said is None:
                raise
            shutil.rmtree(unfinished, ignore_errors=True)
            hint = f"free space, and the same command continues; {self._safe()}"
            raise RunError(f"{what}: {said}", where=str(where), hint=hint) from problem

    def what_is_safe(self) -> str:
        """For errors: up to where nothing is lost."""
        with contextlib.suppress(RunError):
            self.settle()
        return self._safe()

    # ------------------------------------------------------------------------------------------------------------------

    def _seal(self, step: int, processes: int, began: float) -> None:
        written = self.unfinished(step) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        with self._refusals(step):
            sealed = checkpoints.seal(written, checkpoints.folder_of(self._folder, step), step, processes)
        shutil.rmtree(self.unfinished(step), ignore_errors=True)
        checkpoints.prune(self._folder, self._keep)
        seconds = time.monotonic() - began
        self._longest = max(self._longest, seconds)
        if self._account is not None:
            append_line(self._account, {"step": step, "seconds": round(seconds, 4), "bytes": sealed.bytes})

    @contextlib.contextmanager
    def _refusals(self, step: int) -> Iterator[None]:
        with self.told_of(f"step {step:,} cannot be saved", self._folder, self.unfinished(step)):
            yield

    def _safe(self) -> str:
        whole = checkpoints.named(self._folder)
        if not whole:
            return "no checkpoint was saved before"
        return f"all up to step {checkpoints.step_of(whole[-1]):,} is safe in {whole[-1]}"

    def _meet(self) -> None:
        if dist.is_initialized():
            dist.barrier()


def refusal(problem: BaseException | None) -> str | None:
    """What of the disk's stands behind an error of torch or safetensors, in words; None where it is another."""
    while problem is not None:
        if isinstance(problem, OSError):
            return disk_problem(problem)
        if isinstance(problem, RunError):
            return problem.problem
        if isinstance(problem, SafetensorError) and (number := OS_ERROR.search(str(problem))):
            return disk_problem(OSError(int(number[1]), os.strerror(int(number[1]))))
        if isinstance(problem, RuntimeError) and TORCH_CANNOT_WRITE.search(str(problem)):
            return "the disk did not take the whole of a file: it is full, or a quota or a limit (ulimit -f) is reached"
        if isinstance(problem, CheckpointException):
            problem = next(iter(problem.failures.values()))[0]
            continue
        problem = problem.__cause__ or problem.__context__
    return None
