"""The trace as the command line gets it: from another process, or from the cache."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clusterlm.errors import ModelError, UsageError
from clusterlm.model.catalogue import catalogue_config
from clusterlm.worker.trace import Trace, TraceRequest, trace
from clusterlm.worker.trace.apart import trace_apart
from clusterlm.worker.trace.cache import keep, kept_trace
from tests.engines.zoo import USUAL

TINY = TraceRequest(config={"model_type": "llama", **USUAL}, task="generate", sequence_tokens=16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clusterlm" / "traces"


def run(request: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clusterlm.worker.trace"]
    return subprocess.run(command, input=request, capture_output=True, text=True, check=False)


def test_the_process_prints_one_json_object() -> None:
    ended = run(json.dumps(TINY.to_json()))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert Trace.from_json(json.loads(ended.stdout)).phase_of_peak == "prefill"


def test_a_trace_is_kept_and_an_unreadable_one_is_made_again(cache: Path) -> None:
    first = trace_apart(TINY)
    (kept,) = cache.iterdir()
    changed = replace(first, static_bytes=1)
    kept.write_text(json.dumps(changed.to_json()))
    assert trace_apart(TINY) == changed
    kept.write_text('{"static_bytes": ')
    assert trace_apart(TINY).phases == first.phases
    assert json.loads(kept.read_text())["static_bytes"] == first.static_bytes


def test_another_request_or_another_library_is_another_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(TINY, trace(TINY))
    assert kept_trace(TINY) is not None
    assert kept_trace(replace(TINY, sequence_tokens=17)) is None
    monkeypatch.setattr("clusterlm.worker.trace.cache.library_versions", lambda: {"torch": "0.1"})
    assert kept_trace(TINY) is None


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    keep(TINY, trace(TINY))
    assert kept_trace(TINY) is None


def test_errors_come_back_as_they_were() -> None:
    with pytest.raises(ModelError) as refused:
        trace_apart(replace(TINY, config={"model_type": "lama"}))
    assert refused.value.hint == "a newer architecture needs a newer transformers"
    assert str(refused.value).startswith("lama: the installed transformers")


def test_bad_requests_end_with_the_code_for_usage() -> None:
    ended = run('{"task": "trian"}')
    assert (ended.returncode, ended.stdout) == (UsageError.exit_code, "")
    assert ended.stderr == "error: task: 'trian' is not possible\nhint: did you mean 'train'?\n"
    assert run("{").stderr.startswith("error: standard input: is not JSON")


@pytest.mark.slow
def test_llama_70b_with_lora_takes_seconds() -> None:
    """The processor's seconds, which other work on the machine does not lengthen; one core works most of the time."""
    config = catalogue_config("meta-llama/Llama-3.1-70B")
    assert config is not None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    trace_apart(
        TraceRequest(config=config, task="train", method="lora", gradient_checkpointing=True, sequence_tokens=4096)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
