"""Reading a log for signs of causes: the earliest that is a cause and not a consequence counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from clusterlm.runs.causes.cause import Cause
from clusterlm.runs.causes.table import CAUSES

WARNING = re.compile(r"warning|thrown while requesting|^(\[rank\d+\]:)?\s*\[?W\d{4}[ T]", re.IGNORECASE)
"""Lines that come before what then works."""
TRACEBACK = "Traceback (most recent call last):"
RANK = re.compile(r"^\[(?:default\d+|rank\d+)\]: ?")
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(:|$)")
LINES_WITH_NUMBERS = 4
LONGEST_LINE = 1000


@dataclass(frozen=True)
class Sign:
    """A line of the log, and the cause that it shows."""

    cause: Cause
    begin: int
    line: str
    around: str
    """The line and the few after it, for numbers."""

    @property
    def is_warning(self) -> bool:
        return bool(WARNING.search(self.line))


@dataclass(frozen=True)
class Found:
    """What a log shows, by what counts for more."""

    first: Sign | None
    """The earliest of those that are causes, not consequences."""
    consequence: Sign | None
    warning: Sign | None
    own_words: list[str]
    """Lines with which exceptions ended that no row of the table knows, and the last line of all."""


def found_in(text: str) -> Found:
    signs = signs_in(text)
    serious = [sign for sign in signs if not sign.is_warning]
    return Found(
        first=next((sign for sign in serious if not sign.cause.follows), None),
        consequence=next((sign for sign in serious if sign.cause.follows), None),
        warning=next((sign for sign in signs if sign.is_warning), None),
        own_words=[line for line in _last_lines_of_tracebacks(text) if not signs_in(line)],
    )


def signs_in(text: str) -> list[Sign]:
    """The earliest first; of two in one line, the one of the higher row."""
    found = [
        Sign(cause, *_line_at(text, place)) for cause in CAUSES for sign in cause.signs for place in _places(text, sign)
    ]
    return sorted(found, key=lambda sign: (sign.begin, CAUSES.index(sign.cause)))


def _places(text: str, sign: str) -> Iterator[int]:
    """Where the sign's first part stands, and its others in the same line after it."""
    first, *others = sign.split(" … ")
    place = text.find(first)
    while place >= 0:
        end = text.find("\n", place)
        end = len(text) if end < 0 else end
        rest = place + len(first)
        for other in others:
            rest = text.find(other, rest, end)
            if rest < 0:
                break
        else:
            yield place
        place = text.find(first, end)


def _line_at(text: str, place: int) -> tuple[int, str, str]:
    begin = text.rfind("\n", 0, place) + 1
    lines = text[begin : begin + LINES_WITH_NUMBERS * LONGEST_LINE].split("\n", LINES_WITH_NUMBERS)
    return begin, lines[0].strip(), "\n".join(lines[:LINES_WITH_NUMBERS])


def _last_lines_of_tracebacks(text: str) -> list[str]:
    """'KeyError: 'a'' of each, in their order: the line after a traceback's own, which are indented."""
    ends: list[str] = []
    open_in: set[str] = set()
    """Ranks whose lines now are those of a traceback: '' where a line does not say whose it is."""
    for line in text.splitlines():
        prefix = match[0] if (match := RANK.match(line)) else ""
        content = line[len(prefix) :]
        if TRACEBACK in content:
            open_in.add(prefix)
        elif prefix in open_in and content.strip() and not content.startswith((" ", "\t")):
            open_in.discard(prefix)
            if EXCEPTION.match(content):
                ends.append(content.strip())
    return ends
