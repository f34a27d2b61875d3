"""A generation run from its folder: what is missing is computed, what is finished is kept."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator

from clusterlm.errors import RunError
from clusterlm.records.log import ResultLog
from clusterlm.records.output import write_output
from clusterlm.records.request import Request, Result
from clusterlm.records.source import Source, open_source
from clusterlm.runs.folder import Asked, RunFolder
from clusterlm.runs.progress import Progress
from clusterlm.spec import STANDARD_STREAM
from clusterlm.worker.environment import describe_environment
from clusterlm.worker.generator import Generator

SECONDS_BETWEEN_PROGRESS = 0.5
SECONDS_BETWEEN_PROGRESS_FILES = 5


class Interrupted(Exception):
    """The run was asked to stop; all that finished is safe."""


def run_job(run: RunFolder, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Progress:
    """Work until all requests have a result and the output is written; Interrupted when asked to stop before that."""
    asked = run.read_asked()
    with run.locked():
        source = open_source(
            asked.input_path,
            column=asked.spec.column,
            template=asked.spec.template,
            whole_file=asked.spec.whole_file,
            split=asked.spec.split,
        )
        with ResultLog(run.results) as log:
            tracker = _Tracker(run, asked, log, on_progress)
            if len(log) < asked.requests:
                _answer_missing(source, log, tracker, should_stop)
            _write_answers(asked, source, log)
        progress = tracker.progress()
        run.write_finished(progress)
    return progress


def _answer_missing(source: Source, log: ResultLog, tracker: _Tracker, should_stop: Callable[[], bool]) -> None:
    asked = tracker.asked
    generator = Generator(asked.model_path, asked.spec)
    if should_stop():
        raise Interrupted
    tracker.begin(generator)
    writer = _Writer(log)
    answers = generator.results(_missing(source, log))
    try:
        for results in answers:
            writer.put(results)
            tracker.note(results)
            if should_stop():
                raise Interrupted
    finally:
        answers.close()
        writer.close()
        tracker.end()
    if len(log) != asked.requests:
        hint = "was the input changed while the run was at work? --restart begins anew"
        problem = f"{asked.requests:,} requests were counted, and there are {len(log):,} results"
        raise RunError(problem, where=str(asked.input_path), hint=hint)


def _missing(source: Source, log: ResultLog) -> Iterator[Request]:
    """The requests without a result, a result being of the same request with the same content."""
    # The log grows in another thread meanwhile, but only by requests that were handed out here already.
    for request in source:
        if request.index not in log:
            yield request
        elif log.payload_hash(request.index) != request.payload_hash:
            hint = "--restart throws the old results away and begins anew"
            raise RunError(f"record {request.id!r} is not what it was when it was answered", hint=hint)


def _write_answers(asked: Asked, source: Source, log: ResultLog) -> None:
    spec = asked.spec
    to_stream = spec.output == STANDARD_STREAM
    write_output(
        None if to_stream else asked.output_path,
        source,
        log,
        prompt_response=spec.prompt_response,
        prompt_as=spec.prompt_as,
        model_name=asked.model_name,
        stream=sys.stdout if to_stream else None,
    )


class _Writer:
    """Appends in a thread of its own, so that the disk's waiting does not stop the computing."""

    def __init__(self, log: ResultLog) -> None:
        self._log = log
        self._queue: queue.SimpleQueue[list[Result] | None] = queue.SimpleQueue()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def put(self, results: list[Result]) -> None:
        """Raises what stopped the writer: without a place for results there is no use in computing more."""
        if self._problem is not None:
            raise self._problem
        if results:
            self._queue.put(results)

    def close(self) -> None:
        """Wait until all is on the disk."""
        self._queue.put(None)
        self._thread.join()
        if self._problem is not None and sys.exc_info()[1] is not self._problem:
            raise self._problem

    def _work(self) -> None:
        while (results := self._queue.get()) is not None:
            ended = False
            while not self._queue.empty():  # one sync for all that came meanwhile
                more = self._queue.get()
                ended = more is None
                results += more or []
            try:
                self._log.append(results)
            except Exception as problem:  # noqa: BLE001 put() and close() raise it in the thread that can stop the work
                self._problem = problem
                return
            if ended:
                return


class _Tracker:
    """Counts, and tells the listener and the run folder now and then."""

    def __init__(self, run: RunFolder, asked: Asked, log: ResultLog, on_progress: Callable[[Progress], None]) -> None:
        self.run = run
        self.asked = asked
        self._on_progress = on_progress
        self._failed = log.failed_count
        self._done = len(log) - log.failed_count
        self._new_results = 0
        self._new_tokens = 0
        self._started = self._told = self._filed = time.monotonic()
        self._stopped: float | None = None

    def begin(self, generator: Generator) -> None:
        self._attempt = self.run.begin_attempt(describe_environment(self.asked, generator))
        self._started = self._told = self._filed = time.monotonic()
        self._on_progress(self.progress())

    def note(self, results: list[Result]) -> None:
        for result in results:
            self._failed += result.error is not None
            self._done += result.error is None
            self._new_tokens += sum(choice.completion_tokens for choice in result.choices)
        self._new_results += len(results)
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_PROGRESS:
            self._told = now
            self._on_progress(self.progress())
        if now - self._filed >= SECONDS_BETWEEN_PROGRESS_FILES:
            self._filed = now
            self.run.write_progress(self._attempt, self.progress())

    def end(self) -> None:
        self._stopped = time.monotonic()
        self._on_progress(self.progress())
        self.run.write_progress(self._attempt, self.progress())

    def progress(self) -> Progress:
        return Progress(
            requests=self.asked.requests,
            done=self._done,
            failed=self._failed,
            new_results=self._new_results,
            new_tokens=self._new_tokens,
            seconds=(self._stopped or time.monotonic()) - self._started,
        )
