"""Values as YAML and people write them."""

from __future__ import annotations

from typing import Any

TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def truth(value: Any) -> bool | None:
    """None where it is neither true nor false."""
    return value if isinstance(value, bool) else TRUTHS.get(str(value).lower())


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
