"""`clusterlm runs watch`: runs followed to their end; a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click

from clusterlm.report.runs import runs_table
from clusterlm.runs.folder import RunFolder, find_run, known_runs
from clusterlm.runs.state import RunState, states

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 30.0
"""Sites ask not to poll the controller more often than that over hours."""
GROWTH = 1.2
NOT_ALL_DONE = 3
OPEN = ("queued", "running")


def watch_runs(names: Sequence[str], interval: float | None) -> int:
    """The exit status: of runs that are all finished, 0."""
    runs = [find_run(name) for name in names] or _open_runs()
    if not runs:
        click.echo("no run is at work", err=True)
        return 0
    pause, shown, key = interval or FIRST_SECONDS, "", ""
    while True:
        found, silent = states(runs)
        text = runs_table(found)
        if silent:
            text += f"\n(Slurm does not answer: {silent})"
        news = _news(found, silent)
        if news != key or sys.stdout.isatty():
            _show(text, shown)
            shown = text
        if news != key:
            key, pause = news, interval or FIRST_SECONDS  # where things happen, look soon again
        if not silent and not any(one.state in OPEN for one in found):
            return _account(found)
        time.sleep(pause)
        pause = interval or min(LONGEST_SECONDS, pause * GROWTH)


def _open_runs() -> list[RunFolder]:
    found, _ = states(known_runs())
    return [one.run for one in found if one.state in OPEN]


def _news(found: Sequence[RunState], silent: str | None) -> str:
    """What is worth a new line in a log: more than the clock."""
    rows = [(one.run.name, one.state, one.account.done, one.account.failed, one.attempts, one.said) for one in found]
    return f"{rows} {silent}"


def _show(text: str, before: str) -> None:
    """On a terminal over the table before; else as plain lines, those that changed alone."""
    if sys.stdout.isatty():
        lines = before.count("\n") + 1 if before else 0
        click.echo((f"\x1b[{lines}F\x1b[J" if lines else "") + text)
        return
    old = set(before.splitlines())
    for line in text.splitlines():
        if line not in old:
            click.echo(line)
    sys.stdout.flush()


def _account(found: Sequence[RunState]) -> int:
    bad = [one for one in found if one.state != "finished" or one.account.failed]
    for one in bad:
        if one.diagnosis:
            click.echo(f"{one.run.name}: {one.diagnosis.sentence}\nhint: {one.diagnosis.fix}", err=True)
        elif one.said:
            click.echo(f"{one.run.name}: {one.said}", err=True)
    return NOT_ALL_DONE if bad else 0
