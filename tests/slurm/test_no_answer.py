"""No Slurm, a controller that is down, one that is silent: said clearly, and soon."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from clusterlm.errors import SlurmError
from clusterlm.slurm import client
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab


@pytest.fixture
def silent_port(lab: Lab) -> socket.socket:
    """Takes connections and never answers."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


def pointing_at(lab: Lab, port: int, path: Path, message_timeout: int = 5) -> Path:
    """The lab's configuration with its controller at another port of this machine."""
    text = lab.configuration.read_text()
    text = re.sub(r"(?m)^SlurmctldPort=.*", f"SlurmctldPort={port}", text)
    text = re.sub(r"(?m)^SlurmctldHost=.*", "SlurmctldHost=localhost(127.0.0.1)", text)
    text = re.sub(r"(?m)^SlurmctldAddr=.*\n", "", text)
    path.write_text(re.sub(r"(?m)^MessageTimeout=.*", f"MessageTimeout={message_timeout}", text))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_slurm_the_missing_command_and_the_way_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = clusterlm("clusters", "probe")
    assert done.exit_code == 1
    assert "there is no Slurm here: the command scontrol is missing" in done.stderr
    assert "hint: run this on a login node" in done.stderr


def test_a_controller_that_is_down_is_told_within_seconds(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(pointing_at(lab, free_port(), tmp_path / "slurm.conf")))
    begun = time.monotonic()
    done = clusterlm("clusters", "probe")
    assert time.monotonic() - begun < 15
    assert done.exit_code == 1
    assert "Slurm's controller does not answer (Unable to contact slurm controller" in done.stderr
    assert "scontrol ping" in done.stderr


def test_a_controller_that_is_silent_is_waited_for_no_longer_than_said(
    lab: Lab, silent_port: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = silent_port.getsockname()[1]
    monkeypatch.setenv("SLURM_CONF", str(pointing_at(lab, port, tmp_path / "slurm.conf", message_timeout=60)))
    begun = time.monotonic()
    with silent_port, pytest.raises(SlurmError, match=r"does not answer \(no answer in 1 seconds\)"):
        client.ask("scontrol", "show", "config", seconds=1)
    assert time.monotonic() - begun < 5


def test_what_slurm_refuses_is_told_in_its_own_words(lab: Lab) -> None:
    with pytest.raises(SlurmError, match="Slurm refuses: Partition nosuch not found") as refusal:
        client.ask("scontrol", "show", "partition", "nosuch")
    assert refusal.value.where == "scontrol show partition nosuch"


def test_without_accounting_slurm_is_not_asked_for_it(lab: Lab) -> None:
    done = clusterlm("clusters", "probe")
    assert done.exit_code == 0
    assert "account" not in done.stdout
