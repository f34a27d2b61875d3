"""The first steps of a training: what one of them took, beside what the plan said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from clusterlm.planning.verdict import PREDICTION_ERROR
from clusterlm.units import show_bytes, show_seconds


@dataclass(frozen=True, slots=True)
class Planned:
    """Of one step, and of the most memory of one device."""

    seconds: float
    spread: float
    """Eight of ten such predictions lie within seconds / spread .. seconds x spread."""
    memory_bytes: int
    basis: str
    """What it rests on, in words."""


@dataclass(frozen=True, slots=True)
class FirstSteps:
    step: int
    """Of which the seconds are; the memory is the most until then, of the process that takes most."""
    seconds: float
    tokens: int
    memory_bytes: int
    on_gpu: bool
    """Else it is the memory of a process, libraries and all."""
    planned: Planned | None = None
    """None where the planner has no figures of the device."""

    def line(self) -> str:
        parts = [f"step {self.step:,} took {_seconds(self.seconds)}", f"{self.tokens / self.seconds:,.0f} tokens/s"]
        parts.append(f"{show_bytes(self.memory_bytes)} of {'GPU' if self.on_gpu else 'main'} memory at most")
        plan = self.planned
        if plan is None:
            return ", ".join(parts)
        said = f"the plan said {_seconds(plan.seconds)} and {show_bytes(plan.memory_bytes)}"
        return "; ".join([", ".join(parts), said, *self._beyond(plan)])

    def _beyond(self, plan: Planned) -> Iterator[str]:
        """Where it is further off than such plans usually are."""
        low, high = plan.seconds / plan.spread, plan.seconds * plan.spread
        if not low <= self.seconds <= high:
            word = "slower" if self.seconds > high else "faster"
            yield f"that is {word} than the {_seconds(low)} to {_seconds(high)} of 8 in 10 such plans"
        more = self.memory_bytes / plan.memory_bytes - 1
        if abs(more) > PREDICTION_ERROR:
            yield f"{abs(more):.0%} {'more' if more > 0 else 'less'} memory than planned"

    def values(self) -> dict[str, Any]:
        return {"said": self.line(), **asdict(self)}


def _seconds(seconds: float) -> str:
    if seconds >= 10:
        return show_seconds(seconds)
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
