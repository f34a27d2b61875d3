"""The referee's count beside the closed form's, phase by phase."""

from __future__ import annotations

from clusterlm.planning.footprint import Footprint, Phase
from clusterlm.report.plan import gib
from clusterlm.report.table import aligned
from clusterlm.worker.trace.request import Trace

COUNTED_AS = {
    "prefill": ("prefill",),
    "decode": ("first token", "last token", "decode"),
    "forward": ("forward",),
    "backward": ("backward",),
    "optimizer": ("optimizer",),
}
"""The closed form's phases (words in their names) that one traced phase covers."""


def trace_text(trace: Trace, counted: Footprint | None) -> str:
    """A line for each traced phase; the closed form without what torch's count of tensors does not see."""
    rows = [("TRACED", "GIB", "COUNTED", "DIFFERENCE")]
    for name, amount in trace.phases.items():
        rows.append((name, gib(amount), *_beside(amount, _counted(counted, name))))
    rows.append(("peak", gib(trace.peak_bytes), *_beside(trace.peak_bytes, _peak(counted))))
    versions = ", ".join(f"{name} {version}" for name, version in trace.versions.items())
    layers = " and ".join(str(number) for number in trace.traced_layers)
    about = f"{trace.parameters:,} parameters, {trace.trainable:,} trainable; {versions}; {layers} layers traced"
    return f"{aligned(rows, numbers=[1, 2, 3])}\n{about} in {trace.seconds:.1f} s"


def _beside(traced: int, counted: int | None) -> tuple[str, str]:
    return ("", "") if counted is None else (gib(counted), f"{100 * (counted / traced - 1):+.1f} %")


def _counted(footprint: Footprint | None, name: str) -> int | None:
    if footprint is None:
        return None
    words = COUNTED_AS.get(name, (name,))
    found = [tensors(phase) for phase in footprint.phases if any(word in phase.name for word in words)]
    return max(found, default=None)


def _peak(footprint: Footprint | None) -> int | None:
    return None if footprint is None else max(tensors(phase) for phase in footprint.phases)


def tensors(phase: Phase) -> int:
    """Without cuBLAS's workspaces, which are no tensors of the model's."""
    return sum(item.bytes for item in phase.items if not item.name.startswith("cuBLAS"))
