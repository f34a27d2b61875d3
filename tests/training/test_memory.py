"""Where the memory is too small for a micro-batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import clusterlm
from tests.training.lessons import losses, texts_file

ROOM_BYTES = 500 * 2**20
LIMITED = f"""
import re, resource, sys
import torch
from clusterlm.cli.main import main
from clusterlm.worker.training import job
torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)  # the threads and what they hold
taken = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
resource.setrlimit(resource.RLIMIT_AS, (taken + {ROOM_BYTES},) * 2)
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch_and_changes_no_loss(model: Path, tmp_path: Path) -> None:
    """The process may take so many bytes beyond what its libraries take: real allocations fail."""
    texts = texts_file(tmp_path / "long.jsonl", texts=64, words=300)
    small, large = tmp_path / "small", tmp_path / "large"
    settings = ("--max-steps", 1, "--global-batch-size", 64, "--sequence-length", 512)
    assert clusterlm("train", model, texts, "-o", small, *settings, "--micro-batch", 2).exit_code == 0
    command = [sys.executable, "-c", LIMITED, "train", model, texts, "-o", large, *settings, "--micro-batch", 64]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "out of memory with 64 sequences at once: again with 32" in done.stderr
    assert losses(large) == pytest.approx(losses(small), abs=1e-4)
