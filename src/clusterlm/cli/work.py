"""Answering prompts here, seen: progress while it goes, signals, and the account at its end."""

from __future__ import annotations

from clusterlm.cli.models import find
from clusterlm.cli.screen import Screen, say, stopping
from clusterlm.runs.folder import RunFolder, folder_for
from clusterlm.runs.launch import Prepared, prepare
from clusterlm.runs.progress import Progress
from clusterlm.runs.submission import was_submitted
from clusterlm.runs.submit import refuse_second
from clusterlm.slurm import client
from clusterlm.spec import STANDARD_STREAM, GenerateSpec
from clusterlm.units import show_seconds

SOME_FAILED = 3
SHOWN_FAILURES = 3


def work(spec: GenerateSpec, *, restart: bool = False) -> int:
    """Prepare the run and work on it; the exit status."""
    refuse_beside_jobs(folder_for(spec))
    prepared = prepare(spec, lambda: find(spec), restart=restart)
    if prepared.finished_before:
        say(f"{prepared.finished_before:,} of {prepared.requests:,} records are done already; continuing")
    screen = Screen()
    with stopping() as stop:
        from clusterlm.worker.job import run_job
        from clusterlm.worker.outcome import Interrupted

        if prepared.finished_before < prepared.requests:
            say(f"loading {spec.model}")
        try:
            progress = run_job(prepared.run, screen.show, lambda: stop[0].name if stop else None)
        except Interrupted:
            screen.end()
            say(f"interrupted ({stop[0].name}); finished records are safe. The same command continues.")
            return 128 + stop[0]
        finally:
            screen.end()
    _report(spec, prepared, progress)
    return SOME_FAILED if progress.failed else 0


def refuse_beside_jobs(run: RunFolder) -> None:
    """RunError where jobs of it are with Slurm. Where there is no Slurm to ask, a run that was brought here goes on."""
    if was_submitted(run) and not client.is_here():
        say("it had jobs, and there is no Slurm here to ask for them: if one still runs, the work is done twice")
    else:
        refuse_second(run)


def _report(spec: GenerateSpec, prepared: Prepared, progress: Progress) -> None:
    account = f"{progress.requests:,} in = {progress.done:,} done + {progress.failed:,} failed"
    if progress.new_results:
        account += f" ({show_seconds(progress.seconds)}, {progress.tokens_per_second:,.0f} tokens/s)"
    say(account)
    if progress.failed:
        from clusterlm.records.log import ResultLog

        with ResultLog(None, prepared.run.result_files()) as log:
            for result in log.failures(SHOWN_FAILURES):
                say(f"  failed: {result.id}: {result.error}")
        if progress.failed > SHOWN_FAILURES:
            say(f"  and {progress.failed - SHOWN_FAILURES:,} more: see 'error' in the answers")
    if spec.output != STANDARD_STREAM:
        say(f"answers:    {spec.output}")
    say(f"run folder: {prepared.run.path}")
