"""Bytes, seconds and counts as people read them; times as Slurm writes them."""

from __future__ import annotations

import re

from clusterlm.errors import UsageError

SLURM_TIME = re.compile(
    r"(?P<days>\d+)-(?P<day_hours>\d+)(:(?P<day_minutes>\d+)(:(?P<day_seconds>\d+))?)?"
    r"|(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)"
    r"|(?P<only_minutes>\d+)(:(?P<minute_seconds>\d+))?"
)
"""Source: `man sbatch`, --time: minutes, minutes:seconds, h:m:s, days-hours, days-hours:minutes, days-h:m:s."""
SECONDS_OF = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def show_bytes(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns at its last unit")


def show_seconds(seconds: float) -> str:
    """'8 s', '3:20 min', '2:05:00 h': enough to plan a coffee or a night."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h"


def slurm_seconds(text: str) -> int | None:
    """'2-00:00:00' -> 172800; None for UNLIMITED and INFINITE. UsageError where Slurm would not read it."""
    if text.strip().lower() in ("unlimited", "infinite"):
        return None
    found = SLURM_TIME.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a time of Slurm", hint="write 2-00:00:00, 36:00:00, 15:00 or 90 (minutes)")
    return sum(
        int(amount) * SECONDS_OF[name.rsplit("_", 1)[-1]]
        for name, amount in found.groupdict().items()
        if amount is not None
    )


def show_slurm_time(seconds: int | None) -> str:
    """129600 -> '1-12:00:00', 5400 -> '01:30:00', None -> 'UNLIMITED': as Slurm itself prints it."""
    if seconds is None:
        return "UNLIMITED"
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock
