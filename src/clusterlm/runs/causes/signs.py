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
SOURCE = re.compile(r"(\[(default|rank)\d+\]: ?)?[ \t]{4}")
"""A line of the program, as a traceback quotes it."""
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

    @property
    def is_cause(self) -> bool:
        return not self.is_warning and not self.cause.follows


@dataclass(frozen=True)
class Found:
    """What a log shows, by what counts for more."""

    first: Sign | None
    """The earliest of those that are causes, not consequences; a vague one only where there is no other."""
    consequence: Sign | None
    warning: Sign | None
    own_words: list[str]
    """Lines with which exceptions ended that no row of the table knows."""


def found_in(text: str) -> Found:
    signs = signs_in(text)
    causes = [sign for sign in signs if sign.is_cause]
    return Found(
        first=next((sign for sign in causes if not sign.cause.vague), causes[0] if causes else None),
        consequence=next((sign for sign in signs if sign.cause.follows and not sign.is_warning), None),
        warning=next((sign for sign in signs if sign.is_warning), None),
        own_words=[line for line in _last_lines_of_tracebacks(text) if not signs_in(line)],
    )


def signs_in(text: str) -> list[Sign]:
    """The earliest first; of two in one line, the one of the higher row."""
    found = {
        (begin, row) for row, cause in enumerate(CAUSES) for sign in cause.signs for begin in _lines_with(text, sign)
    }
    return [_sign(CAUSES[row], text, begin) for begin, row in sorted(found) if not SOURCE.match(text, begin)]


def _lines_with(text: str, sign: str) -> Iterator[int]:
    """Where the lines begin that have all parts of the sign, in their order."""
    first, *others = sign.split(" … ")
    place = text.find(first)
    while place >= 0:
        end = text.find("\n", place)
        end = len(text) if end < 0 else end
        rest = place
        for other in others:
            rest = text.find(other, rest + 1, end)
            if rest < 0:
                break
        else:
            yield text.rfind("\n", 0, place) + 1
        place = text.find(first, end)


def _sign(cause: Cause, text: str, begin: int) -> Sign:
    lines = text[begin : begin + LINES_WITH_NUMBERS * LONGEST_LINE].split("\n", LINES_WITH_NUMBERS)
    return Sign(cause, begin, lines[0].strip(), "\n".join(lines[:LINES_WITH_NUMBERS]))


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
