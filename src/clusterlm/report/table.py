"""Tables and bars of text."""

from __future__ import annotations

from collections.abc import Sequence

BAR_WIDTH = 30
HIDDEN_AT_LEAST = 3
"""Fewer lines of a long list are shown rather than counted."""
EIGHTHS = " ▏▎▍▌▋▊▉"


def aligned(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Columns as wide as their widest entry; those of `numbers` end where the others begin."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            entry.rjust(width) if column in numbers else entry.ljust(width)
            for column, (entry, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def bar(amount: float, whole: float) -> str:
    """A line as long as its share of BAR_WIDTH, by eighths of a character; a trace of it for what is hardly there."""
    eighths = max(round(8 * BAR_WIDTH * amount / whole), 1 if amount > 0 else 0) if whole else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
