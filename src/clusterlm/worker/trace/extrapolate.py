"""From the histories of two shallow models to the peaks of the deep one.

A peak is a maximum, and its place may move with the depth: from the last layer's backward to the first's, say. So no
peak is extrapolated but every segment of the history, each of which is linear in the depth: the bytes live in it are
those of layers before, of layers after, and of what does not depend on the depth. Layers are aligned both from the
front and from the back: in between, the bytes are linear in the layer's index too, and so the largest is at an end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clusterlm.worker.trace.request import Segment

Key = tuple[str, str, str, int]
"""Phase, event, from where it is aligned ("front", "back", "whole"), and the layer or the occurrence."""


class NotAlignedError(Exception):
    """The two histories are not of the same form."""


@dataclass(frozen=True, slots=True)
class History:
    """One traced model: its layers' kinds and what happened."""

    kinds: Sequence[object]
    segments: list[Segment]


def extrapolated_peaks(shallow: History, deeper: History, more_periods: int, edge_layers: int) -> dict[str, int]:
    """Peaks by phase, `more_periods` periods above `deeper`, which has one more than `shallow`.

    The first and the last `edge_layers` are only like themselves; those between are like each other.
    """
    events = _numbers_of_events(shallow.segments), _numbers_of_events(deeper.segments)
    constant = {name for name, number in events[0].items() if events[1][name] == number}
    front, back = _aligned_layers(shallow.kinds, deeper.kinds, edge_layers)
    values = _peaks_by_key(shallow, front, back, constant)
    deeper_values = _peaks_by_key(deeper, front, back, constant)
    if values.keys() != deeper_values.keys():
        raise NotAlignedError(str(values.keys() ^ deeper_values.keys()))
    peaks: dict[str, int] = {}
    for key, value in values.items():
        per_period = deeper_values[key] - value
        peaks[key[0]] = max(peaks.get(key[0], 0), deeper_values[key] + per_period * more_periods)
    return peaks


def _aligned_layers(shallow: Sequence[object], deeper: Sequence[object], edge: int) -> tuple[set[int], set[int]]:
    """Layers of the same kind in both, counted from the front, and counted from the back."""
    inner = range(len(shallow) - edge)
    front = {layer for layer in inner if shallow[layer] == deeper[layer]}
    back = {layer for layer in inner if shallow[-1 - layer] == deeper[-1 - layer]}
    return front, back


def _peaks_by_key(history: History, front: set[int], back: set[int], constant: set[tuple[str, str]]) -> dict[Key, int]:
    """Events in `constant` are told apart by their occurrence; of others only the highest peak counts."""
    seen: Counter[tuple[str, str]] = Counter()
    peaks: dict[Key, int] = defaultdict(int)
    depth = len(history.kinds)
    for segment in history.segments:
        name = (segment.phase, segment.event)
        if segment.layer is not None:
            keys = list(_layer_keys(name, segment.layer, depth - 1 - segment.layer, front, back))
        else:
            keys = [(*name, "whole", seen[name] if name in constant else -1)]
            seen[name] += 1
        for key in keys:
            peaks[key] = max(peaks[key], segment.peak_bytes)
    return peaks


def _layer_keys(
    name: tuple[str, str], layer: int, layer_from_back: int, front: set[int], back: set[int]
) -> Iterator[Key]:
    if layer in front:
        yield (*name, "front", layer)
    if layer_from_back in back:
        yield (*name, "back", layer_from_back)


def _numbers_of_events(segments: list[Segment]) -> Counter[tuple[str, str]]:
    return Counter((segment.phase, segment.event) for segment in segments if segment.layer is None)
