"""Progress: how far a run is, as numbers and as one line."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.units import show_seconds


@dataclass(frozen=True, slots=True)
class Progress:
    """`seconds` and `new_*` count this attempt alone; `done` and `failed` the whole run."""

    requests: int
    done: int
    failed: int
    new_results: int
    new_tokens: int
    seconds: float
    unit: str = "records"
    """What is counted: records, or steps of a training."""
    note: str = ""
    """What else is worth telling: the loss of a training."""
    taken: str = ""
    """And what it takes: memory, GPU-hours."""

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """As if the rest went like what this attempt did so far; None before its first result."""
        if not self.new_results:
            return None
        return self.seconds / self.new_results * (self.requests - self.done - self.failed)

    def line(self) -> str:
        left = self.seconds_left
        parts = [
            f"{self.done + self.failed:,} of {self.requests:,} {self.unit}",
            *([self.note] if self.note else []),
            f"{self.tokens_per_second:,.0f} tokens/s",
            *([f"{self.failed:,} failed"] if self.unit == "records" else []),
            f"{show_seconds(left)} left" if left is not None else "no result yet",
            *([self.taken] if self.taken else []),
        ]
        return ", ".join(parts)
