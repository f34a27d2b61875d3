"""ResultLog: results appended as they finish, one JSON line each, safe on the disk before anything is told of them.

A run's results may stand in several files, each written by one process alone, so that no node waits for another's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_folder, write_all
from clusterlm.records.index import Index
from clusterlm.records.request import Result

MOST_OPEN = 64
"""Files of others open at a time: a run may have thousands, a process may often open 1,024."""

HINT_DISK = "look at the disk and at your rights there, then run the same command again"
HINT_AGAIN = "run the same command again"


class ResultLog:
    """An index in memory, the results on the disk. What stands in several files counts once: the first wins."""

    def __init__(self, own: Path | None, others: Sequence[Path] = ()) -> None:
        """Opens or makes `own`, the file to append to, and cuts off what a killed process left of its last line.

        `others` are only read, and may still grow, be empty or have vanished: their torn last lines are passed over.
        """
        self._paths = ([] if own is None else [own]) + list(others)
        self._index = Index()
        self._readers = _Readers()
        self._own: int | None = None
        self._end = 0
        try:
            if own is not None:
                self._open_own(own)
            for number, path in enumerate(self._paths):
                if path != own:
                    self._read_other(number, path)
        except BaseException:
            self.close()
            raise

    def append(self, results: Iterable[Result]) -> None:
        """All of them, on the disk when this returns; or none of them, and RunError where the disk refuses."""
        new = list(results)
        descriptor = self._check_new(new)
        lines = [f"{result.to_json()}\n".encode() for result in new]
        try:
            write_all(descriptor, b"".join(lines))
            os.fsync(descriptor)
        except BaseException as error:
            self._cut_back(descriptor)  # Ctrl-C between two writes must leave no half line either
            if not isinstance(error, OSError):
                raise
            hint = f"free space, then run the same command again: {len(self):,} results are safe"
            raise RunError(disk_problem(error), where=self._where, hint=hint) from error
        for result, line in zip(new, lines, strict=True):
            self._index.add(result, 0, self._end, len(line))
            self._end += len(line)

    def read(self, index: int) -> Result:
        """The result of the request with this index; RunError where there is none yet."""
        if index not in self:
            hint = f"run the same command again: {len(self):,} results are safe"
            raise RunError(f"the request with index {index} has no result yet", where=self._where, hint=hint)
        path = self._paths[self._index.files[index]]
        try:
            line = os.pread(self._descriptor(path), self._index.lengths[index], self._index.offsets[index])
        except OSError as error:
            raise RunError(disk_problem(error), where=str(path), hint=HINT_DISK) from error
        return Result.from_json(line)

    def payload_hash(self, index: int) -> str:
        return f"{self._index.payload_hashes[index]:016x}"

    def failures(self, most: int) -> list[Result]:
        """The first of the results that are errors, in the order of the input."""
        return [self.read(index) for index in sorted(self._index.failed)[:most]]

    @property
    def failed_count(self) -> int:
        return len(self._index.failed)

    def failed_among(self, indices: range) -> int:
        """How many of these requests have an error as their result."""
        return self._index.failed_among(indices)

    @property
    def most_choices(self) -> int:
        """The largest number of choices that any result has."""
        return self._index.most_choices

    def __contains__(self, index: int) -> bool:
        return index in self._index

    def __len__(self) -> int:
        return self._index.count

    def close(self) -> None:
        self._readers.close()
        if self._own is not None:
            descriptor, self._own = self._own, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    @property
    def _where(self) -> str | None:
        return str(self._paths[0]) if self._paths else None

    def _descriptor(self, path: Path) -> int:
        return self._own if self._own is not None and path == self._paths[0] else self._readers.descriptor(path)

    def _check_new(self, new: list[Result]) -> int:
        """The descriptor to write to, where all of `new` may be written."""
        if self._own is None:
            raise RunError("the log of results is closed", where=self._where, hint=HINT_AGAIN)
        seen: set[int] = set()
        for result in new:
            if result.index in self or result.index in seen:
                hint = "this is a mistake in clusterlm, please report it; nothing was lost"
                raise RunError(f"request {result.id!r} has a result already", where=self._where, hint=hint)
            int(result.payload_hash, 16)  # what the index cannot take must not get into the file
            seen.add(result.index)
        return self._own

    def _cut_back(self, descriptor: int) -> None:
        """The file as before a failed append; where even that fails, no append until it is opened and repaired."""
        try:
            os.ftruncate(descriptor, self._end)
            os.lseek(descriptor, self._end, os.SEEK_SET)
        except OSError:
            self.close()  # the first problem is the one to report

    def _open_own(self, path: Path) -> None:
        try:
            self._own = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            self._end = self._read_index(0, path)
            if os.fstat(self._own).st_size != self._end:
                os.ftruncate(self._own, self._end)
                os.fsync(self._own)
            os.lseek(self._own, self._end, os.SEEK_SET)
            sync_folder(path.absolute().parent)  # the file may be new, and its name must survive a power cut too
        except OSError as error:
            raise RunError(disk_problem(error), where=str(path), hint=HINT_DISK) from error

    def _read_other(self, number: int, path: Path) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                self._read_index(number, path)
        except OSError as error:
            raise RunError(disk_problem(error), where=str(path), hint=HINT_DISK) from error

    def _read_index(self, file: int, path: Path) -> int:
        """Fills the index; the offset behind the last whole result."""
        end = 0
        for number, line in enumerate(_whole_lines(path), 1):
            try:
                self._index.add(Result.from_json(line), file, end, len(line))
            except (ValueError, KeyError, TypeError, OverflowError) as problem:
                where = f"{path}:{number}"
                hint = "delete this line, and its request runs again; or begin anew with --restart"
                raise RunError(f"this line is no result: {problem}", where=where, hint=hint) from problem
            end += len(line)
        return end


class _Readers:
    """Files of others, open for reading; the one not used for longest is closed when there are too many."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def descriptor(self, path: Path) -> int:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) >= MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _whole_lines(path: Path) -> Iterator[bytes]:
    """All but a last one that a crash tore, or that another process is just writing."""
    with open(path, "rb") as file:
        for line in file:
            # One without its end is the last, even where the file has grown since it was read.
            if not line.endswith(b"\n") or (not file.peek(1) and not _is_json(line)):
                return
            yield line


def _is_json(line: bytes) -> bool:
    """Whether the line was written: after a power cut its last block may never have been."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
