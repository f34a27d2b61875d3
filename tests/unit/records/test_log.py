"""The log of results: what was appended is safe, whatever happens to the process, the disk or the last line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from clusterlm.errors import RunError
from clusterlm.records.log import ResultLog
from clusterlm.records.request import Choice, Result

SizeLimit = Callable[[int], AbstractContextManager[None]]


def result(index: int, text: str = "text", error: str | None = None) -> Result:
    choices = () if error else (Choice(text, "stop", 3, 7),)
    return Result(index, f"id{index}", f"{index:016x}", prompt_tokens=5, choices=choices, error=error)


def filled(path: Path, *results: Result) -> Path:
    with ResultLog(path) as log:
        log.append(results)
    return path


def contents(path: Path) -> dict[int, Result]:
    with ResultLog(path) as log:
        return {index: log.read(index) for index in range(100) if index in log}


def test_what_was_appended_is_there_when_the_log_is_opened_again(tmp_path: Path) -> None:
    results = [result(3, "Grüße\u2028🎉\n"), result(0, error="too long"), result(1)]
    path = filled(tmp_path / "log", *results)
    with ResultLog(path) as log:
        assert len(log) == 3
        assert log.failed_count == 1
        assert [index in log for index in (-1, 0, 1, 2, 3, 4)] == [False, True, True, False, True, False]
        assert [log.read(index) for index in (3, 0, 1)] == results
        assert [log.payload_hash(index) for index in (0, 3)] == ["0" * 16, "0" * 15 + "3"]
        assert log.failures(5) == [results[1]]
        assert log.most_choices == 1


def test_each_line_of_the_file_is_one_result(tmp_path: Path) -> None:
    path = filled(tmp_path / "log", result(0), result(1, error="e"))
    assert path.read_text() == (
        '{"index": 0, "id": "id0", "payload_hash": "0000000000000000", "prompt_tokens": 5, "choices": '
        '[{"text": "text", "finish_reason": "stop", "completion_tokens": 3, "seed": 7}], "error": null}\n'
        '{"index": 1, "id": "id1", "payload_hash": "0000000000000001", "prompt_tokens": 5, "choices": [], '
        '"error": "e"}\n'
    )


def test_results_can_be_read_while_others_are_appended(tmp_path: Path) -> None:
    with ResultLog(tmp_path / "log") as log:
        for index in range(5):
            log.append([result(index)])
            assert log.read(index) == result(index)
        with ResultLog(None, [tmp_path / "log"]) as reader:
            assert len(reader) == 5


def test_half_a_surrogate_pair_in_a_text_is_replaced_and_a_whole_one_kept(tmp_path: Path) -> None:
    with ResultLog(tmp_path / "log") as log:
        log.append([result(0, "a\ud800b \ud83c\udf89")])
        assert log.read(0) == result(0, "a\ufffdb 🎉")


def test_a_request_without_a_result_is_told(tmp_path: Path) -> None:
    with ResultLog(filled(tmp_path / "log", result(0))) as log, pytest.raises(RunError, match="index 1 has no result"):
        log.read(1)


def test_a_second_result_for_a_request_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with ResultLog(tmp_path / "log") as log:
        log.append([result(0)])
        for batch in ([result(1), result(0)], [result(2), result(2)]):
            with pytest.raises(RunError, match="has a result already"):
                log.append(batch)
        log.append([result(1)])
    assert contents(tmp_path / "log") == {0: result(0), 1: result(1)}


def test_the_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert filled(tmp_path / "log").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_log_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file or directory"):
        ResultLog(tmp_path / "missing" / "log")
    with pytest.raises(RunError, match="Is a directory"):
        ResultLog(tmp_path)


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "log")
    log.close()
    log.close()
    with pytest.raises(RunError, match="closed"):
        log.append([result(0)])


# -------------------------------------------------------------------------------------------------------------- repairs


@hypothesis.given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=4),
    cut=st.floats(0, 1),
    zeros=st.sampled_from([0, 0, 1, 50]),
)
@hypothesis.settings(max_examples=100)
def test_a_log_cut_off_at_any_byte_holds_the_results_before_it_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: float, zeros: int
) -> None:
    results = [result(index, text) for index, text in enumerate(texts)]
    path = filled(tmp_path_factory.mktemp("cut") / "log", *results)
    content = path.read_bytes()
    kept = content[: round(cut * len(content))]
    path.write_bytes(kept + bytes(zeros))
    whole = kept.count(b"\n")
    with ResultLog(path) as log:
        assert len(log) == whole
        assert [log.read(index) for index in range(whole)] == results[:whole]
        log.append(results[whole:])
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "tail", [b'{"index": 1, "id"', b'{"index": 1, "id"\n', b"\0\0\0\0", b"\0\0\0\0\n", b"\xff\n", b"\n"]
)
def test_a_torn_last_line_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    path = filled(tmp_path / "log", result(0))
    content = path.read_bytes()
    path.write_bytes(content + tail)
    assert contents(path) == {0: result(0)}
    assert path.read_bytes() == content


def test_a_reader_leaves_a_torn_last_line_as_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path / "log", result(0))
    path.write_bytes(path.read_bytes() + b'{"index": 1')
    before = path.read_bytes()
    with ResultLog(None, [path]) as log:
        assert len(log) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line", [b"{broken\n", b"\n", b"[]\n", b"5\n", b'{"index": 1}\n', b"\xff\n", b'{"index": -1, "choices": []}\n']
)
def test_a_broken_line_in_the_middle_is_told_with_its_number_and_nothing_is_changed(
    tmp_path: Path, line: bytes
) -> None:
    path = filled(tmp_path / "log", result(0))
    path.write_bytes(path.read_bytes() + line + f"{result(2).to_json()}\n".encode())
    before = path.read_bytes()
    with pytest.raises(RunError, match="log:2: this line is no result"):
        ResultLog(path)
    assert path.read_bytes() == before


def test_a_last_line_that_is_json_but_no_result_is_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"mine": "do not touch"}\n')
    with pytest.raises(RunError, match=r"notes\.json:1: this line is no result"):
        ResultLog(path)
    assert path.read_text() == '{"mine": "do not touch"}\n'


def test_a_second_line_for_one_request_is_told(tmp_path: Path) -> None:
    path = filled(tmp_path / "log", result(0))
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(RunError, match=r"log:2: .*request 0 has a result on an earlier line"):
        ResultLog(path)


# ------------------------------------------------------------------------------------------------- the disk and the end


def test_a_full_disk_loses_nothing_that_was_safe_and_the_log_goes_on_after_it(
    tmp_path: Path, files_no_longer_than: SizeLimit
) -> None:
    path = tmp_path / "log"
    with ResultLog(path) as log:
        log.append([result(0)])
        size_bytes = path.stat().st_size
        with files_no_longer_than(size_bytes + 250), pytest.raises(RunError) as caught:
            log.append([result(1), result(2), result(3)])
        assert caught.value.where == str(path)
        assert caught.value.problem.startswith("no space left")
        assert caught.value.hint == "free space, then run the same command again: 1 results are safe"
        assert path.stat().st_size == size_bytes
        assert 1 not in log
        log.append([result(2)])
    assert contents(path) == {0: result(0), 2: result(2)}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EIO, "input/output error"),
        (errno.EROFS, "the disk refuses: Read-only file system"),
    ],
)
def test_a_disk_that_refuses_to_sync_has_not_got_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with ResultLog(tmp_path / "log") as log:
        with monkeypatch.context() as patch, pytest.raises(RunError, match=said):
            patch.setattr(os, "fsync", refuse)
            log.append([result(0)])
        assert len(log) == 0
        log.append([result(0)])
    assert contents(tmp_path / "log") == {0: result(0)}


def test_ctrl_c_in_the_middle_of_an_append_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with ResultLog(tmp_path / "log") as log:
        log.append([result(0)])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupt)
            log.append([result(1)])
        log.append([result(1)])
    assert contents(tmp_path / "log") == {0: result(0), 1: result(1)}


def test_a_killed_process_loses_nothing_that_append_returned_for(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from clusterlm.records.log import ResultLog
from clusterlm.records.request import Choice, Result
log = ResultLog(Path(sys.argv[1]))
for index in range(len(log), 10_000_000):
    log.append([Result(index, str(index), f"{index:016x}", choices=(Choice("x" * 5000, "stop", 1, 0),))])
    print(index, flush=True)
"""
    safe = -1
    for _ in range(3):
        command = [sys.executable, "-c", program, str(tmp_path / "log")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _, line in zip(range(20), process.stdout, strict=False):
                safe = int(line)
            process.kill()
            safe = max([safe, *(int(line) for line in process.stdout if line.endswith("\n"))])
        with ResultLog(tmp_path / "log") as log:
            assert safe < len(log) <= safe + 2  # one more may be written whole and not yet told
            assert all(log.read(index).id == str(index) for index in range(len(log)))
