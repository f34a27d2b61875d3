"""Runs as text: a table of all, and all about one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import PurePath
from typing import Any

from clusterlm.report.table import aligned
from clusterlm.runs import journal
from clusterlm.runs.first_steps import first_steps_of
from clusterlm.runs.progress import Progress
from clusterlm.runs.state import RunState
from clusterlm.runs.told import attempts_of
from clusterlm.slurm.jobs import JobStatus
from clusterlm.units import show_bytes, show_seconds, show_slurm_time

COLUMNS = ("RUN", "TASK", "MODEL", "STATE", "DONE", "FAILED", "OF", "ATTEMPT", "TIME", "GPU-HOURS", "NOTE")
NUMBERS = (4, 5, 6, 7, 9)


def run_summary(one: RunState) -> dict[str, Any]:
    """One run as JSON values."""
    spec, leading = one.asked["spec"], one.leading
    return {
        "name": one.run.name,
        "folder": str(one.run.path),
        "task": spec["task"],
        "model": one.asked["model_name"],
        "state": one.state,
        "said": one.said or None,
        "unit": one.account.unit,
        "requests": one.account.requests,
        "done": one.account.done,
        "failed": one.account.failed,
        **_of_training(one),
        "attempts": one.attempts,
        "created": one.asked["created"],
        "input": one.asked["input_path"],
        "output": spec["output"],
        "cluster": one.submission.cluster if one.submission else None,
        "shards": one.submission.shards if one.submission else None,
        "gpu_hours": round(one.account.gpu_seconds / 3600, 4) if _uses_gpus(one) else None,
        "elapsed_seconds": leading.elapsed_seconds if leading else None,
        "limit_seconds": leading.limit_seconds if leading else None,
        "expected_start": _iso(leading.expected_start) if leading and leading.is_pending else None,
        "jobs": [_job(job) for job in one.jobs],
        "cause": asdict(one.diagnosis) if one.diagnosis else None,
    }


def _of_training(one: RunState) -> dict[str, Any]:
    account = one.account
    if account.unit != "steps":
        return {}
    return {
        "saved": account.saved,
        "loss": account.loss,
        "tokens_per_second": account.tokens_per_second,
        "memory_bytes": account.memory_bytes,
        "mfu": account.mfu,
        "first_steps": first_steps_of(one.run),
    }


def _uses_gpus(one: RunState) -> bool:
    return one.submission is not None or one.account.gpu_seconds > 0


def _job(job: JobStatus) -> dict[str, Any]:
    return {
        "id": job.id,
        "state": job.state,
        "reason": job.reason if job.is_pending else None,
        "nodes": job.nodes or None,
        "elapsed_seconds": job.elapsed_seconds,
        "limit_seconds": job.limit_seconds,
        "expected_start": _iso(job.expected_start),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def runs_table(states: Sequence[RunState]) -> str:
    """One line per run."""
    rows = [
        (
            one.run.name,
            one.asked["spec"]["task"],
            PurePath(one.asked["model_name"]).name,
            one.state,
            f"{one.account.done:,}",
            f"{one.account.failed:,}",
            f"{one.account.requests:,}",
            str(one.attempts),
            _time(one.leading),
            f"{one.account.gpu_seconds / 3600:.2f}" if _uses_gpus(one) else "",
            _note(one),
        )
        for one in states
    ]
    return aligned([COLUMNS, *rows], numbers=NUMBERS)


def _time(job: JobStatus | None) -> str:
    """Elapsed of its limit."""
    if job is None or not job.is_running:
        return ""
    return f"{show_slurm_time(job.elapsed_seconds)} of {show_slurm_time(job.limit_seconds)}"


def _note(one: RunState) -> str:
    leading = one.leading
    if one.state == "queued" and leading and leading.expected_start:
        return f"{one.said}; start expected {leading.expected_start.astimezone():%a %d %b %H:%M}"
    running = sum(job.is_running for job in one.jobs)
    if one.submission and one.submission.shards > 1 and one.state == "running":
        return f"{running} of {one.submission.shards} shards at work"
    return one.said or (_learning(one) if one.state in ("running", "finished") else "")


def _learning(one: RunState) -> str:
    """'loss 2.31, 5,400 tokens/s', of a training."""
    account = one.account
    parts = [f"loss {account.loss:.4g}"] if account.loss is not None else []
    parts += [f"{account.tokens_per_second:,.0f} tokens/s"] if account.tokens_per_second else []
    parts += [f"MFU {account.mfu:.0%}"] if account.mfu else []
    return ", ".join(parts)


def run_text(one: RunState) -> str:
    """All about one run: what was asked, how far it is, with what it was made, what happened to its jobs."""
    summary = run_summary(one)
    names = ("name", "state", "model", "input", "output", "folder", "created")
    lines = [(name, str(summary[name])) for name in names]
    if one.said:
        lines.append(("why", one.said))
    if one.diagnosis:
        lines.append(("what to do", one.diagnosis.fix))
    lines.append((one.account.unit, _steps(one) if one.account.unit == "steps" else _records(one)))
    if one.submission:
        lines.append(("cluster", one.submission.cluster))
    if _uses_gpus(one):
        lines.append(("GPU-hours", f"{summary['gpu_hours']:.2f}"))
    lines += [("job", _job_line(job)) for job in one.jobs]
    if environment := one.run.environment():
        packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        lines += [
            ("attempts", str(summary["attempts"])),
            ("device", _device(environment)),
            *([("way", _way(environment["training"]))] if "training" in environment else []),
            *([("loading", loading)] if (loading := _loading(environment)) else []),
            *([("first steps", first_steps["said"])] if (first_steps := first_steps_of(one.run)) else []),
            ("fingerprint", environment["model"]["fingerprint"]),
            ("packages", packages),
        ]
    left_out = {"task", "model", "input", "output"}
    lines += [
        (name, str(value))
        for name, value in one.asked["spec"].items()
        if name not in left_out and value not in (None, [])
    ]
    text = aligned(lines)
    story = journal_text(one)
    return f"{text}\n\n{story}" if story else text


def _job_line(job: JobStatus) -> str:
    if job.is_pending:
        return f"{job.id} waits: {job.reason}"
    return f"{job.id} {job.state.lower()} on {job.nodes}, {_time(job)}"


def journal_text(one: RunState) -> str:
    """The run's journal, one decision a line."""
    entries = journal_entries(one)
    rows = [(f"{datetime.fromtimestamp(entry.time):%d %b %H:%M:%S}", entry.job or "", entry.said) for entry in entries]
    return aligned([("WHEN", "JOB", "WHAT HAPPENED"), *rows]) if rows else ""


def journal_entries(one: RunState) -> list[journal.Entry]:
    """All but the questions to Slurm, which matter only where an answer was lost."""
    paths = [one.run.journal, *(attempt.journal for attempt in attempts_of(one.run))]
    return [entry for entry in journal.read(paths) if entry.event != "submitting"]


def journal_values(one: RunState) -> list[dict[str, Any]]:
    return [dict(json.loads(entry.line)) for entry in journal_entries(one)]


def _device(environment: dict[str, Any]) -> str:
    dtype = environment["model"].get("dtype")
    return f"{environment['device']} on {environment['host']}" + (f", {dtype}" if dtype else "")


def _way(training: dict[str, Any]) -> str:
    """How the last attempt trained: 'fsdp, 8 processes, 2 x 4 sequences of up to 2,048 tokens on each, packed'."""
    processes, batches = training["processes"], training["micro_batches"]
    words = [training["strategy"], f"{processes:,} process{'es' * (processes > 1)}"]
    words.append(
        f"{batches:,} x {training['micro_batch']:,} rows of up to {training['sequence_length']:,} tokens on each"
    )
    return ", ".join([*words, *(["packed"] if training["packed"] else [])])


def _loading(environment: dict[str, Any]) -> str:
    """'2.1 GiB on node1, at most 0.6 GiB of a process': what loading the model took of a node's memory."""
    peaks = environment.get("training", {}).get("peak_host_bytes_of_loading")
    if not isinstance(peaks, dict):
        return ""
    node, most = max(peaks["nodes"].items(), key=lambda one: one[1])
    return f"{show_bytes(most)} of memory on {node}, at most {show_bytes(max(peaks['processes']))} by a process"


def _steps(one: RunState) -> str:
    account = one.account
    parts = [f"{account.done:,} of {account.requests:,}"]
    parts += [_learning(one)] if _learning(one) else []
    parts += [f"the last checkpoint is of step {account.saved:,}"] if account.saved is not None else []
    return ", ".join(parts)


def _records(one: RunState) -> str:
    account = one.account
    text = f"{account.done:,} done + {account.failed:,} failed of {account.requests:,}"
    progress = one.run.finished() or one.run.progress_by_hand()
    return f"{text}; last attempt {_speed(progress)}" if progress and progress.new_results else text


def _speed(progress: Progress) -> str:
    return f"{show_seconds(progress.seconds)} at {progress.tokens_per_second:,.0f} tokens/s"
