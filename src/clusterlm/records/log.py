"""ResultLog: results appended as they finish, one JSON line each, safe on the disk before anything is told of them."""

from __future__ import annotations

import contextlib
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from clusterlm.errors import RunError
from clusterlm.records.files import disk_problem, sync_folder, write_all
from clusterlm.records.request import Result

BROKEN = (ValueError, KeyError, TypeError)
"""What a line that is no Result raises."""


class ResultLog:
    """An index in memory (some 100 bytes a result), the results on the disk."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens or makes the file; what a killed process left of its last line is cut off (not when `read_only`)."""
        self.path = path
        self.failed_count = 0
        self._offsets: dict[int, int] = {}
        self._payload_hashes: dict[int, bytes] = {}
        self._failed = array("Q")
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        try:
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise RunError(disk_problem(error), where=str(path)) from None
        self._end = self._read_index()
        if not read_only:
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            sync_folder(path.parent)

    def append(self, results: Iterable[Result]) -> None:
        """All of them, on the disk when this returns; RunError when the disk refuses, and then none of them."""
        new = list(results)
        for result in new:
            if result.index in self._offsets:
                raise RunError(f"record {result.id!r} has a result already", where=str(self.path))
        lines = [f"{result.to_json()}\n".encode() for result in new]
        try:
            write_all(self._descriptor, b"".join(lines))
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first problem is the one to report; opening repairs as well
                os.ftruncate(self._descriptor, self._end)
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
            hint = f"free space, then run the same command again: {len(self):,} results are safe"
            raise RunError(disk_problem(error), where=str(self.path), hint=hint) from None
        for result, line in zip(new, lines, strict=True):
            self._note(result, self._end)
            self._end += len(line)

    def read(self, index: int) -> Result:
        """The result of the request with this index; KeyError where there is none."""
        return Result.from_json(self._line_at(self._offsets[index]))

    def payload_hash(self, index: int) -> str:
        return self._payload_hashes[index].hex()

    def failures(self, most: int) -> list[Result]:
        """The first of the results that are errors, in the order of the input."""
        return [self.read(index) for index in itertools.islice(sorted(self._failed), most)]

    def __contains__(self, index: int) -> bool:
        return index in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _note(self, result: Result, offset: int) -> None:
        self._offsets[result.index] = offset
        self._payload_hashes[result.index] = bytes.fromhex(result.payload_hash)
        if result.error is not None:
            self.failed_count += 1
            self._failed.append(result.index)

    def _line_at(self, offset: int) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.readline()

    def _read_index(self) -> int:
        """Fills the index; the offset behind the last whole result."""
        end = 0
        for number, line in enumerate(self._lines(), start=1):
            try:
                if not line.endswith(b"\n"):
                    return end
                self._note(Result.from_json(line), end)
            except BROKEN as problem:
                if end + len(line) == os.fstat(self._descriptor).st_size:
                    return end  # after a power cut the last block may hold zeros or a part of an older file
                where = f"{self.path}:{number}"
                hint = "the file was changed by something else; restore it, or begin anew with --restart"
                raise RunError(f"is no result: {problem}", where=where, hint=hint) from None
            end += len(line)
        return end

    def _lines(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            yield from file
