"""`clusterlm clusters probe`: what is wrong with the command is told before Slurm is asked. With Slurm: tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import clusterlm


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "ours.txt"], "--output ours.txt: a profile's name ends in .toml"),
        (["-o", "no/such/folder/ours.toml"], "there is no such folder"),
        (["lumi", "-o", "ours.toml"], "--output: a comparison writes no profile"),
        (["--gpu-kind", "a100"], "--gpu-kind: 'a100' has no ="),
        (["lumy"], "no cluster is called 'lumy'"),
        (["laptop"], "laptop has no Slurm"),
    ],
)
def test_a_wrong_command_is_refused_before_slurm_is_asked(arguments: list[str], message: str) -> None:
    done = clusterlm("clusters", "probe", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text("precious")
    done = clusterlm("clusters", "probe", "-o", path)
    assert (done.exit_code, path.read_text()) == (2, "precious")
    assert "--force writes it anew" in done.stderr


def test_a_right_command_then_asks_slurm(tmp_path: Path) -> None:
    done = clusterlm("clusters", "probe", "-o", tmp_path / "ours.toml")
    assert done.exit_code == 1
    assert "the command scontrol is missing" in done.stderr
    assert not (tmp_path / "ours.toml").exists()
