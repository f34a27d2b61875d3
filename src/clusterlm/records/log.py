"""ResultLog: results appended as they finish, one JSON line each, safe on the disk before anything is told of them."""

from __future__ import annotations

import itertools
import json
import os
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_folder, write_all
from clusterlm.records.request import Result

ABSENT = -1
"""The offset of a request that has no result yet."""

HINT_DISK = "look at the disk and at your rights there, then run the same command again"


class ResultLog:
    """An index in memory, the results on the disk. One writer at a time: the run's lock sees to that."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens or makes the file; what a killed process left of its last line is cut off (not when `read_only`)."""
        self.path = path
        self._index = _Index()
        self._is_open = False
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        try:
            self._descriptor = os.open(path, flags, 0o666)
            self._is_open = True
            self._end = self._read_index()
            if not read_only:
                self._repair()
        except OSError as error:
            self.close()
            raise RunError(disk_problem(error), where=str(path), hint=HINT_DISK) from error
        except BaseException:
            self.close()
            raise

    def append(self, results: Iterable[Result]) -> None:
        """All of them, on the disk when this returns; or none of them, and RunError where the disk refuses."""
        new = list(results)
        self._check_new(new)
        lines = [f"{result.to_json()}\n".encode() for result in new]
        try:
            write_all(self._descriptor, b"".join(lines))
            os.fsync(self._descriptor)
        except BaseException as error:
            self._cut_back()  # Ctrl-C between two writes must leave no half line either
            if not isinstance(error, OSError):
                raise
            hint = f"free space, then run the same command again: {len(self):,} results are safe"
            raise RunError(disk_problem(error), where=str(self.path), hint=hint) from error
        for result, line in zip(new, lines, strict=True):
            self._index.add(result, self._end, len(line))
            self._end += len(line)

    def read(self, index: int) -> Result:
        """The result of the request with this index; RunError where there is none yet."""
        if index not in self:
            hint = f"run the same command again: {len(self):,} results are safe"
            raise RunError(f"the request with index {index} has no result yet", where=str(self.path), hint=hint)
        try:
            line = os.pread(self._descriptor, self._index.lengths[index], self._index.offsets[index])
        except OSError as error:
            raise RunError(disk_problem(error), where=str(self.path), hint=HINT_DISK) from error
        return Result.from_json(line)

    def payload_hash(self, index: int) -> str:
        return f"{self._index.payload_hashes[index]:016x}"

    def failures(self, most: int) -> list[Result]:
        """The first of the results that are errors, in the order of the input."""
        return [self.read(index) for index in sorted(self._index.failed)[:most]]

    @property
    def failed_count(self) -> int:
        return len(self._index.failed)

    @property
    def most_choices(self) -> int:
        """The largest number of choices that any result has."""
        return self._index.most_choices

    def __contains__(self, index: int) -> bool:
        return index in self._index

    def __len__(self) -> int:
        return self._index.count

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _check_new(self, new: list[Result]) -> None:
        if not self._is_open:
            raise RunError("the log of results is closed", where=str(self.path), hint="run the same command again")
        seen: set[int] = set()
        for result in new:
            if result.index in self or result.index in seen:
                hint = "this is a mistake in clusterlm, please report it; nothing was lost"
                raise RunError(f"request {result.id!r} has a result already", where=str(self.path), hint=hint)
            int(result.payload_hash, 16)  # what the index cannot take must not get into the file
            seen.add(result.index)

    def _cut_back(self) -> None:
        """The file as before a failed append; where even that fails, no append until it is opened and repaired."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
        except OSError:
            self.close()  # the first problem is the one to report

    def _repair(self) -> None:
        if os.fstat(self._descriptor).st_size != self._end:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        os.lseek(self._descriptor, self._end, os.SEEK_SET)
        sync_folder(self.path.absolute().parent)  # the file may be new, and its name must survive a power cut too

    def _read_index(self) -> int:
        """Fills the index; the offset behind the last whole result."""
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if _is_torn(line, is_last=not file.peek(1)):
                    return end
                try:
                    self._index.add(Result.from_json(line), end, len(line))
                except (ValueError, KeyError, TypeError, OverflowError) as problem:
                    where = f"{self.path}:{number}"
                    hint = "delete this line, and its request runs again; or begin anew with --restart"
                    raise RunError(f"this line is no result: {problem}", where=where, hint=hint) from problem
                end += len(line)
        return end


class _Index:
    """Where each result stands in the file: 24 bytes per request, so that millions fit beside a model."""

    def __init__(self) -> None:
        self.offsets = array("q")
        self.lengths = array("q")
        self.payload_hashes = array("Q")
        self.failed: set[int] = set()
        self.count = 0
        self.most_choices = 0

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self.offsets) and self.offsets[index] != ABSENT

    def add(self, result: Result, offset: int, length: int) -> None:
        """ValueError or TypeError where a line of the file is no result, or a second one for its request."""
        payload_hash = int(result.payload_hash, 16)
        if result.index < 0:
            raise ValueError(f"the index is {result.index}")
        if result.index in self:
            raise ValueError(f"request {result.index} has a result on an earlier line")
        missing = result.index + 1 - len(self.offsets)
        self.lengths.extend(itertools.repeat(0, missing))
        self.payload_hashes.extend(itertools.repeat(0, missing))
        self.offsets.extend(itertools.repeat(ABSENT, missing))
        self.lengths[result.index] = length
        self.payload_hashes[result.index] = payload_hash
        if result.error is not None:
            self.failed.add(result.index)
        self.most_choices = max(self.most_choices, len(result.choices))
        self.count += 1
        self.offsets[result.index] = offset  # last, because another thread may ask for it meanwhile


def _is_torn(line: bytes, *, is_last: bool) -> bool:
    """Whether a crash left this line: its end is missing, or after a power cut its last block was never written."""
    if not is_last:
        return False
    if not line.endswith(b"\n"):
        return True
    try:
        json.loads(line)
    except ValueError:
        return True
    return False
