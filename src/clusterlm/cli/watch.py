"""`clusterlm runs watch`: runs followed to their end; a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence

import click

from clusterlm.report.runs import run_summary, runs_table
from clusterlm.runs.folder import RunFolder, find_run, known_runs
from clusterlm.runs.state import RunState, states, states_of_all
from clusterlm.slurm import client

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 30.0
"""Sites ask not to poll the controller more often than that over hours."""
GROWTH = 1.2
NOT_ALL_DONE = 3
BY_CTRL_C = 130
OPEN = ("queued", "running")


def watch_runs(names: Sequence[str], interval: float | None, *, as_json: bool) -> int:
    """The exit status: of runs that are all finished, 0."""
    runs = [find_run(name) for name in names] or _open_runs()
    if not runs:
        click.echo("no run is at work", err=True)
        return 0
    screen, pause, before = _Screen(as_json), interval or FIRST_SECONDS, ""
    try:
        while True:
            found, silent = states(runs)
            screen.show(found, silent)
            are_open = any(one.state in OPEN for one in found) or (silent and client.is_here())
            if not are_open or all(one.state == "finished" for one in found):
                return _account(found)
            news = f"{[(one.state, one.attempts, one.said) for one in found]}"
            if news != before:
                before, pause = news, interval or FIRST_SECONDS  # where things happen, look soon again
            time.sleep(pause)
            pause = interval or min(LONGEST_SECONDS, pause * GROWTH)
    except KeyboardInterrupt:
        click.echo("the runs go on without being watched", err=True)
        return BY_CTRL_C


def _open_runs() -> list[RunFolder]:
    found, _, _ = states_of_all(known_runs())
    return [one.run for one in found if one.state in OPEN]


class _Screen:
    """On a terminal each table over the one before; else lines that say more than that time goes by."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._is_live = sys.stdout.isatty() and not as_json
        self._shown: list[str] = []
        self._news = ""

    def show(self, found: Sequence[RunState], silent: str | None) -> None:
        rows = [
            (one.run.name, one.state, one.account.done, one.account.failed, one.attempts, one.said) for one in found
        ]
        news, self._news = self._news, f"{rows} {silent}"
        if news == self._news and not self._is_live:
            return
        if self._as_json:
            click.echo(json.dumps([run_summary(one) for one in found]))
        else:
            self._print(runs_table(found).splitlines() + ([f"(Slurm does not answer: {silent})"] if silent else []))
        sys.stdout.flush()

    def _print(self, lines: list[str]) -> None:
        if self._is_live:
            width = shutil.get_terminal_size().columns  # a line that wraps would be two of the screen's
            up = f"\x1b[{len(self._shown)}F\x1b[J" if self._shown else ""
            click.echo(up + "\n".join(line[:width] for line in lines))
        else:
            click.echo("\n".join(line for line in lines if line not in self._shown))
        self._shown = lines


def _account(found: Sequence[RunState]) -> int:
    bad = [one for one in found if one.state != "finished" or one.account.failed]
    for one in bad:
        if one.diagnosis:
            click.echo(f"{one.run.name}: {one.diagnosis.sentence}\nhint: {one.diagnosis.fix}", err=True)
        elif one.said:
            click.echo(f"{one.run.name}: {one.said}", err=True)
    return NOT_ALL_DONE if bad else 0
