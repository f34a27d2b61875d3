"""Trackers that a training reports to: they are told all, and are never the reason for its end."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from tests.cli.running import clusterlm
from tests.training.lessons import losses

SETTINGS = ("--global-batch-size", 16, "--max-steps", 3, "--report-to", "tensorboard")


def test_tensorboard_has_the_losses_of_the_run_folder(model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "learned"
    done = clusterlm("train", model, texts, "-o", output, *SETTINGS)
    assert done.exit_code == 0, done.output
    told = EventAccumulator(f"{output}.run/tensorboard").Reload().Scalars("train/loss")
    assert {event.step: event.value for event in told} == pytest.approx(losses(output))


@pytest.mark.parametrize("method", ["add_text", "add_scalar"])  # before the first step, and behind it
def test_a_tracker_that_fails_is_named_once_and_left_out(
    method: str, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, method, fail)
    output = tmp_path / "learned"
    done = clusterlm("train", model, texts, "-o", output, *SETTINGS)
    assert done.exit_code == 0, done.output
    [note] = [line for line in done.stderr.splitlines() if "tensorboard" in line]
    assert note.startswith("note: --report-to tensorboard failed, and the training goes on without it: ")
    assert note.endswith("No space left on device")
    assert list(losses(output)) == [1, 2, 3]
