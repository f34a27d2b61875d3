"""Index: where the result of each request stands, so that millions fit in memory beside a model."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Container

from clusterlm.records.request import Result

ABSENT = -1
"""The offset of a request that has no result yet."""


class Index:
    """24 bytes per request: which file, where in it, how long, and the hash of what was asked."""

    def __init__(self) -> None:
        self.files = array("I")
        self.offsets = array("q")
        self.lengths = array("I")
        self.payload_hashes = array("Q")
        self.failed: set[int] = set()
        self.count = 0
        self.most_choices = 0

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self.offsets) and self.offsets[index] != ABSENT

    def add(self, result: Result, file: int, offset: int, length: int) -> None:
        """The first of several files wins; ValueError or TypeError for no result, or a second one in its file."""
        payload_hash = int(result.payload_hash, 16)
        if result.index < 0:
            raise ValueError(f"the index is {result.index}")
        if result.index in self:
            if self.files[result.index] == file:
                raise ValueError(f"request {result.index} has a result on an earlier line")
            return
        missing = result.index + 1 - len(self.offsets)
        self.files.extend(itertools.repeat(0, missing))
        self.lengths.extend(itertools.repeat(0, missing))
        self.payload_hashes.extend(itertools.repeat(0, missing))
        self.offsets.extend(itertools.repeat(ABSENT, missing))
        self.files[result.index] = file
        self.lengths[result.index] = length
        self.payload_hashes[result.index] = payload_hash
        if result.error is not None:
            self.failed.add(result.index)
        self.most_choices = max(self.most_choices, len(result.choices))
        self.count += 1
        self.offsets[result.index] = offset  # last, because another thread may ask for it meanwhile

    def failed_among(self, indices: Container[int]) -> int:
        return sum(index in indices for index in self.failed)
