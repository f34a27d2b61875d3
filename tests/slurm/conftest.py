"""What these tests share: a list of runs of each one's own, and clusters, of which the one that keeps accounts takes
longer to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, start
from tests.slurm.runs import write_prompts

WEIGHTS = "CPU=1.0,Mem=0.256G,GRES/gpu=100"


def _charge(lab: Lab) -> None:
    """A QoS with limits for the partition low, one that high insists on, and prices."""
    limits = "MaxWall=1:00:00 MaxTRESPerUser=gres/gpu=3 MaxJobsPerUser=2 MaxSubmitJobsPerUser=5"
    lab.run("sacctmgr", "--immediate", "add", "qos", "capped", *limits.split())
    lab.until_it_works("scontrol", "update", "PartitionName=low", "QOS=capped")
    lab.run("scontrol", "update", "PartitionName=high", "AllowQos=high")
    for partition in ("gpu", "high", "low", "short", "a100", "v100", "whole", "debug"):
        lab.run("scontrol", "update", f"PartitionName={partition}", f"TRESBillingWeights={WEIGHTS}")


@pytest.fixture(scope="session")
def plain_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return start(tmp_path_factory, "plain")


@pytest.fixture
def lab(plain_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """This process is on a login node of it."""
    monkeypatch.setenv("SLURM_CONF", str(plain_lab.configuration))
    return plain_lab


@pytest.fixture(scope="session")
def charging_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return start(tmp_path_factory, "accounted", accounting=True, prepare=_charge)


@pytest.fixture
def accounted(charging_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """As `lab`; it keeps accounts, has a QoS with limits and weighs GPUs."""
    monkeypatch.setenv("SLURM_CONF", str(charging_lab.configuration))
    return charging_lab


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs: none of other tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.txt")


@pytest.fixture
def model(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")
