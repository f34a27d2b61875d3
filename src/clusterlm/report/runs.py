"""Runs as text: a table of all, and all about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusterlm.report.table import aligned
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.units import show_seconds

COLUMNS = ("RUN", "TASK", "MODEL", "STATE", "DONE", "FAILED", "OF", "BEGUN (UTC)")


def run_summary(run: RunFolder) -> dict[str, Any]:
    """One run as JSON values."""
    asked = run.read()
    progress = run.finished() or run.progress()
    return {
        "name": run.name,
        "folder": str(run.path),
        "task": asked["spec"]["task"],
        "model": asked["model_name"],
        "state": run.state(),
        "requests": asked["requests"],
        "done": progress.done if progress else 0,
        "failed": progress.failed if progress else 0,
        "attempts": len(run.attempts()),
        "created": asked["created"],
        "input": asked["input_path"],
        "output": asked["spec"]["output"],
    }


def runs_table(summaries: Sequence[dict[str, Any]]) -> str:
    """One line per run."""
    rows = [
        tuple(
            str(value)
            for value in (
                run["name"],
                run["task"],
                run["model"],
                run["state"],
                run["done"],
                run["failed"],
                run["requests"],
                run["created"][:16].replace("T", " "),
            )
        )
        for run in summaries
    ]
    return aligned([COLUMNS, *rows])


def run_text(run: RunFolder) -> str:
    """All about one run: what was asked, how far it is, with what it was made."""
    summary = run_summary(run)
    lines = [(name, str(summary[name])) for name in ("name", "state", "model", "input", "output", "folder", "created")]
    lines.append(("records", _records(run, summary)))
    if environment := run.environment():
        packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        lines += [
            ("attempts", str(summary["attempts"])),
            ("device", f"{environment['device']} on {environment['host']}, {environment['model']['dtype']}"),
            ("fingerprint", environment["model"]["fingerprint"]),
            ("packages", packages),
        ]
    settings = run.read()["spec"]
    left_out = {"task", "model", "input", "output"}
    lines += [
        (name, str(value)) for name, value in settings.items() if name not in left_out and value not in (None, [])
    ]
    return aligned(lines)


def _records(run: RunFolder, summary: dict[str, Any]) -> str:
    text = f"{summary['done']:,} done + {summary['failed']:,} failed of {summary['requests']:,}"
    progress = run.finished() or run.progress()
    return f"{text}; last attempt {_speed(progress)}" if progress and progress.seconds else text


def _speed(progress: Progress) -> str:
    return f"{show_seconds(progress.seconds)} at {progress.tokens_per_second:,.0f} tokens/s"
