"""Results of one run in the files of several processes: each record counts once, wherever its result stands."""

from __future__ import annotations

import resource
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from clusterlm.errors import RunError
from clusterlm.records.log import MOST_OPEN, ResultLog
from clusterlm.records.output import write_output
from clusterlm.records.request import Choice, Result
from clusterlm.records.source import open_source

REQUESTS = 12


def result(index: int, payload_hash: str = "", error: str | None = None) -> Result:
    choices = () if error else (Choice(f"text {index}", "stop", 3, 7),)
    return Result(index, str(index), payload_hash or f"{index:016x}", prompt_tokens=5, choices=choices, error=error)


def write(path: Path, *results: Result, tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(f"{one.to_json()}\n".encode() for one in results) + tail)
    return path


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=60)
def test_however_the_results_are_split_the_output_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("split")
    (folder / "in.txt").write_text("".join(f"prompt {index}\n" for index in range(REQUESTS)))
    source = open_source(folder / "in.txt")
    results = [
        result(request.index, request.payload_hash, "too long" if request.index % 5 == 4 else None)
        for request in source
    ]
    with ResultLog(write(folder / "one", *results)) as log:
        write_output(folder / "expected.jsonl", source, log, model_name="m")

    files = data.draw(st.integers(1, 5), "files")
    places = st.lists(st.integers(0, files - 1), min_size=1, max_size=files, unique=True)
    holders = [data.draw(places, f"files that hold {index}") for index in range(REQUESTS)]
    order = data.draw(st.permutations(results), "order")
    tails = st.sampled_from([b"", b'{"index": 0, "id"', b'{"index": 3, "id"\n', b"\0\0\0"])
    paths = [
        write(folder / f"{file}", *(one for one in order if file in holders[one.index]), tail=data.draw(tails))
        for file in range(files)
    ]
    before = [path.read_bytes() for path in paths]
    own = data.draw(st.sampled_from([None, *paths]), "own")
    with ResultLog(own, [folder / "vanished", *paths]) as log:
        assert len(log) == REQUESTS
        assert [log.read(index) for index in range(REQUESTS)] == results
        assert log.failed_count == 2
        assert log.failed_among(range(4, REQUESTS, 5)) == 2
        assert log.failed_among(range(0, REQUESTS, 5)) == 0
        assert log.failures(1) == [results[4]]
        assert log.most_choices == 1
        summary = write_output(folder / "split.jsonl", source, log, model_name="m")
    assert (summary.requests, summary.failed) == (REQUESTS, 2)
    assert (folder / "split.jsonl").read_bytes() == (folder / "expected.jsonl").read_bytes()
    assert [path.read_bytes() for path in paths if path != own] == [
        content for path, content in zip(paths, before, strict=True) if path != own
    ]


def test_the_own_file_is_repaired_and_appended_to_and_those_of_others_are_left(tmp_path: Path) -> None:
    own = write(tmp_path / "own", result(0), tail=b'{"index"')
    other = write(tmp_path / "other", result(1), tail=b'{"index"')
    before = other.read_bytes()
    with ResultLog(own, [other]) as log:
        log.append([result(2)])
        assert [log.read(index) for index in range(3)] == [result(0), result(1), result(2)]
        with pytest.raises(RunError, match="has a result already"):
            log.append([result(1)])
    assert own.read_bytes() == write(tmp_path / "expected", result(0), result(2)).read_bytes()
    assert other.read_bytes() == before


def test_the_first_of_two_files_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "first", result(0, error="first"))
    second = write(tmp_path / "second", result(0, error="second"))
    for own, others, expected in ((None, [first, second], "first"), (second, [first], "second")):
        with ResultLog(own, others) as log:
            assert (len(log), log.failed_count, log.read(0).error) == (1, 1, expected)


def test_a_double_within_the_file_of_another_is_told(tmp_path: Path) -> None:
    other = write(tmp_path / "other", result(0), result(0))
    with pytest.raises(RunError, match=r"other:2: .*request 0 has a result on an earlier line"):
        ResultLog(tmp_path / "own", [other])


def test_a_broken_line_in_the_middle_of_another_file_is_told_with_its_place(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(f"{{broken\n{result(1).to_json()}\n")
    with pytest.raises(RunError, match="other:1: this line is no result"):
        ResultLog(None, [other])


def test_files_that_still_grow_are_read_to_their_last_whole_line(tmp_path: Path) -> None:
    other = write(tmp_path / "other", result(0))
    with ResultLog(None, [other]) as log:
        with open(other, "a") as file:
            file.write(f"{result(1).to_json()}\n")
        assert len(log) == 1
        assert log.read(0) == result(0)
    with ResultLog(None, [other]) as log:
        assert len(log) == 2


def test_no_files_are_no_results(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with ResultLog(None, [tmp_path / "empty", tmp_path / "vanished"]) as log:
        assert len(log) == 0
        with pytest.raises(RunError, match="index 0 has no result yet"):
            log.read(0)
        with pytest.raises(RunError, match="closed"):
            log.append([result(0)])


def test_results_are_read_from_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{index}", result(index)) for index in range(3 * MOST_OPEN)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + MOST_OPEN + 10, hard))
    try:
        with ResultLog(None, files) as log:
            for _ in range(2):
                assert [log.read(index) for index in range(len(files))] == [result(i) for i in range(len(files))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
