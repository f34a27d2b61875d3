"""Generator: a loaded model that answers requests, in whatever order they finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator as Yielding
from collections.abc import Iterable, Iterator
from pathlib import Path

from clusterlm.records.request import Choice, Request, Result
from clusterlm.spec import GenerateSpec
from clusterlm.worker.admission import Admission
from clusterlm.worker.completion import Completion
from clusterlm.worker.loading import LoadedModel, load_model, load_tokenizer, own_sampling
from clusterlm.worker.one_by_one import OneByOne
from clusterlm.worker.prompting import Prompting, Unanswerable
from clusterlm.worker.scheduler import Scheduler
from clusterlm.worker.sequence import Sequence
from clusterlm.worker.window import Window


class Generator:
    def __init__(self, model_path: Path, spec: GenerateSpec) -> None:
        """Loads the tokenizer and then the weights; ModelError where they cannot be loaded."""
        self.spec = spec
        self.tokenizer = load_tokenizer(model_path)
        self.model: LoadedModel = load_model(model_path, spec, self.tokenizer)
        self.prompting = Prompting(self.tokenizer, spec, own_sampling(model_path), self.model.context_tokens)
        # A tokenizer of its own: one object must not encode in the reading thread and decode in this one at a time.
        self.completion = Completion(load_tokenizer(model_path), self.model.end_tokens)

    def results(self, requests: Iterable[Request], admission: Admission | None = None) -> Yielding[list[Result]]:
        """What each step finished, often nothing; the order is that of finishing. Close it to stop early.

        Where `admission` closes, it ends with the records that were begun.
        """
        admission = admission or Admission()
        open_requests: dict[int, _OpenRequest] = {}
        failures: deque[Result] = deque()
        window = Window(self._sequences(requests, open_requests, failures), admission)
        try:
            for sequences in self._engine(window).run():
                finished = [failures.popleft() for _ in range(len(failures))]
                for sequence in sequences:
                    request = open_requests[sequence.request_index]
                    request.finished.append(sequence)
                    if request.is_complete:
                        admission.finish(sequence.request_index)
                        finished.append(self._result(open_requests.pop(sequence.request_index)))
                yield finished
            yield list(failures)
        finally:
            window.close()

    def answer(self, request: Request) -> Iterator[str]:
        """The text of one answer, as far as it is, behind each step. Unanswerable where there can be none."""
        sequence, *_ = self.prompting.sequences(request)
        window = Window(iter([sequence]), Admission())
        try:
            for _ in self._engine(window).run():
                yield self.completion.text(sequence)
        finally:
            window.close()
        if sequence.error is not None:
            raise Unanswerable(sequence.error)

    def _engine(self, window: Window) -> Scheduler | OneByOne:
        engine = Scheduler if self.model.cohort_layers is not None else OneByOne
        return engine(self.model, window, self.completion.accept, self.spec.max_batch_tokens)

    def _sequences(
        self, requests: Iterable[Request], open_requests: dict[int, _OpenRequest], failures: deque[Result]
    ) -> Iterator[Sequence]:
        """In the reading thread: what cannot be answered goes straight to the failures."""
        for request in requests:
            try:
                sequences = self.prompting.sequences(request)
            except Unanswerable as problem:
                failures.append(Result(request.index, request.id, request.payload_hash, error=str(problem)))
                continue
            open_requests[request.index] = _OpenRequest(request.id, request.payload_hash, len(sequences))
            yield from sequences

    def _result(self, request: _OpenRequest) -> Result:
        sequences = sorted(request.finished, key=lambda sequence: sequence.sample)
        error = next((sequence.error for sequence in sequences if sequence.error), None)
        choices = tuple(
            Choice(self.completion.text(row), row.finish_reason or "", row.completion_tokens, row.seed)
            for row in sequences
            if error is None
        )
        first = sequences[0]
        return Result(first.request_index, request.id, request.payload_hash, first.prompt_tokens, choices, error)


class _OpenRequest:
    """A request of which not all samples are finished."""

    def __init__(self, id: str, payload_hash: str, samples: int) -> None:
        self.id = id
        self.payload_hash = payload_hash
        self.samples = samples
        self.finished: list[Sequence] = []

    @property
    def is_complete(self) -> bool:
        return len(self.finished) == self.samples
