"""Counts the bytes of all live storages, fake or real, as operations create them and Python lets them go."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clusterlm.worker.trace.request import Segment


@dataclass(slots=True)
class _Running:
    """A segment that is not finished; `unmeasured` ones are between two phases."""

    phase: str | None
    event: str
    layer: int | None
    entry_bytes: int
    peak_bytes: int


class StorageTracker(TorchDispatchMode):
    """`live_bytes` now, and in `segments` the history of the phases."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.segments: list[Segment] = []
        self.event_per_operation = False
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._running = _Running(None, "", None, 0, 0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and the guard against it would double the time of every operation."""
        return False

    def phase(self, name: str | None, event: str = "start") -> None:
        """A new phase begins; None: what follows is not measured."""
        self._finish()
        self._running = _Running(name, event, None, self.live_bytes, self.live_bytes)

    def event(self, event: str, layer: int | None = None) -> None:
        """A new segment of the same phase begins."""
        self._finish()
        self._running = _Running(self._running.phase, event, layer, self.live_bytes, self.live_bytes)

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count storages that were made while the tracker did not look."""
        for tensor in tensors:
            self._count(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if self.event_per_operation:
            self.event(str(function))
        result = function(*arguments, **(named or {}))
        if isinstance(result, torch.Tensor):
            self._count(result)
        else:
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self._count(leaf)
        return result

    @contextmanager
    def watching_resizes(self) -> Iterator[None]:
        """FSDP frees the gathered parameters by resizing their storage to nothing, which is no operation."""
        resize = torch.UntypedStorage.resize_

        def counted(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._set_size(storage._cdata, storage.nbytes())
            return result

        torch.UntypedStorage.resize_ = counted  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    def _count(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, DTensor):
            tensor = tensor._local_tensor
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0
            self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
        self._set_size(key, storage.nbytes())

    def _set_size(self, key: int, size: int) -> None:
        if key in self._sizes and self._sizes[key] != size:
            self.live_bytes += size - self._sizes[key]
            self._sizes[key] = size
            self._running.peak_bytes = max(self._running.peak_bytes, self.live_bytes)

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)
        del self._references[key]

    def _finish(self) -> None:
        run = self._running
        if run.phase is not None:
            self.segments.append(
                Segment(run.phase, run.event, run.layer, run.entry_bytes, run.peak_bytes, self.live_bytes)
            )
