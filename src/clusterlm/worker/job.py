"""A generation run from its folder: what is missing is computed, what is finished is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from clusterlm.errors import RunError
from clusterlm.records.log import ResultLog
from clusterlm.records.output import write_output
from clusterlm.records.request import Request
from clusterlm.records.source import Source
from clusterlm.runs.asked import Asked
from clusterlm.runs.attempt import Part
from clusterlm.runs.folder import RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.spec import STANDARD_STREAM, GenerateSpec
from clusterlm.worker.admission import Admission
from clusterlm.worker.environment import describe_environment
from clusterlm.worker.generator import Generator
from clusterlm.worker.outcome import TIME_LIMIT, Interrupted
from clusterlm.worker.place import Place
from clusterlm.worker.tracker import Tracker
from clusterlm.worker.writer import Writer

ShouldStop = Callable[[], str | None]
"""The name of the signal that asks for it; None: go on."""


@dataclass(frozen=True, slots=True)
class Done:
    """A part of which every record has a result."""

    progress: Progress
    elsewhere: int
    """Records of other parts that have none yet; with 0 the output is written."""


def run_job(run: RunFolder, on_progress: Callable[[Progress], None], should_stop: ShouldStop) -> Progress:
    """All of the run, as a process started by hand; Interrupted when asked to stop before its end."""
    return run_part(Place(run), on_progress, should_stop).progress


def run_part(
    place: Place,
    on_progress: Callable[[Progress], None],
    should_stop: ShouldStop,
    on_work: Callable[[], None] = lambda: None,
) -> Done:
    """Work until all records of the part have a result; who finds that all of the run have one writes the output.

    `on_work` is called when the model is loaded, or needs no loading: from then on there is something to lose.
    """
    asked = place.run.read_asked()
    with place.locked():
        source = asked.source()
        with ResultLog(place.results, place.results_of_others()) as log:
            tracker = Tracker(place, asked.requests, log, on_progress)
            if tracker.missing:
                admission = Admission(place.ends, should_stop)
                _answer_missing(asked, source, place.part, log, tracker, admission, on_work)
            elif place.attempt is not None:
                tracker.end()
            on_work()
            elsewhere = _finish(place, asked, source, log, tracker.progress())
    return Done(tracker.progress(), elsewhere)


def _answer_missing(
    asked: Asked[GenerateSpec],
    source: Source,
    part: Part,
    log: ResultLog,
    tracker: Tracker,
    admission: Admission,
    on_work: Callable[[], None],
) -> None:
    _refuse_to_begin(admission)
    generator = Generator(asked.model_path, asked.spec)
    on_work()
    _refuse_to_begin(admission)
    tracker.begin(describe_environment(asked, generator))
    writer = Writer(log)
    answers = generator.results(_missing(source, part, log), admission)
    try:
        for results in answers:
            writer.put(results)
            tracker.note(results)
            if reason := admission.must_stop():
                raise Interrupted(reason)
    finally:
        answers.close()
        writer.close()
        tracker.end()
    if tracker.missing:
        _refuse_to_begin(admission)
        hint = "was the input changed while the run was at work? --restart begins anew"
        progress = tracker.progress()
        found = progress.done + progress.failed
        problem = f"{progress.requests:,} requests were counted, and there are {found:,} results"
        raise RunError(problem, where=str(asked.input_path), hint=hint)


def _refuse_to_begin(admission: Admission) -> None:
    """Interrupted where no record may be begun."""
    if not admission.is_open():
        raise Interrupted(admission.must_stop() or TIME_LIMIT)


def _missing(source: Source, part: Part, log: ResultLog) -> Iterator[Request]:
    """The part's requests without a result, a result being of the same request with the same content."""
    # The log grows in another thread meanwhile, but only by requests that were handed out here already.
    for request in source:
        if request.index not in part:
            continue
        if request.index not in log:
            yield request
        elif log.payload_hash(request.index) != request.payload_hash:
            hint = "--restart throws the old results away and begins anew"
            raise RunError(f"record {request.id!r} is not what it was when it was answered", hint=hint)


def _finish(place: Place, asked: Asked[GenerateSpec], source: Source, log: ResultLog, progress: Progress) -> int:
    """Write the output where every record of the run has a result; how many have none.

    Of several processes that end together each may write it: each replaces the file whole, by the same bytes.
    """
    if len(log) >= asked.requests:
        _write_answers(place.run, asked, source, log, progress)
        return 0
    with ResultLog(None, place.run.result_files()) as fresh:  # others have worked meanwhile
        if len(fresh) < asked.requests:
            return asked.requests - len(fresh)
        _write_answers(place.run, asked, source, fresh, progress)
    return 0


def _write_answers(
    run: RunFolder, asked: Asked[GenerateSpec], source: Source, log: ResultLog, progress: Progress
) -> None:
    spec = asked.spec
    to_stream = spec.output == STANDARD_STREAM
    written = write_output(
        None if to_stream else asked.output_path,
        source,
        log,
        prompt_response=spec.prompt_response,
        prompt_as=spec.prompt_as,
        model_name=asked.model_name,
        stream=sys.stdout if to_stream else None,
    )
    done = written.requests - written.failed
    if (written.requests, written.failed) != (asked.requests, log.failed_count):
        problem = f"{asked.requests:,} in, but {done:,} done + {written.failed:,} failed"
        raise RunError(problem, where=str(run.path), hint="this is a mistake in clusterlm, please report it")
    run.write_finished(replace(progress, requests=written.requests, done=done, failed=written.failed))
