"""Every test: away from the user's files and the network, and in CI no test is skipped unseen."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest

OPTIONAL = "optional: "
"""A skip whose reason starts so is allowed in CI: CI cannot have, or need not have, what the test wants."""

OWNER_OF_HOME = "CLUSTERLM_TEST_HOME_OWNER"
"""The process that made the home of this test run, and will remove it."""

KEPT = {"CLUSTERLM_CI", OWNER_OF_HOME}
"""All other CLUSTERLM_ settings of the user's environment are dropped."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported: the Hugging Face libraries read these names when they are imported."""
    if OWNER_OF_HOME not in os.environ:  # xdist's workers inherit the home of the process that started them
        home = Path(tempfile.mkdtemp(prefix="clusterlm-tests-"))
        os.environ |= {
            OWNER_OF_HOME: str(os.getpid()),
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_STATE_HOME": str(home / "state"),
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE"):
            os.environ.pop(name, None)
        for name in [name for name in os.environ if name.startswith("CLUSTERLM_") and name not in KEPT]:
            del os.environ[name]
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        # One thread for each worker: else every torch starts as many as there are cores, and they wait for each other.
        os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # No deadlines: how long an example takes says more about the machine's other work than about the code.
    # In CI the same examples every time: a red run must be about the change that it tests.
    hypothesis.settings.register_profile("clusterlm", deadline=None, derandomize="CLUSTERLM_CI" in os.environ)
    hypothesis.settings.load_profile("clusterlm")


def pytest_unconfigure(config: pytest.Config) -> None:
    if os.environ.get(OWNER_OF_HOME) == str(os.getpid()):
        shutil.rmtree(os.environ["HOME"], ignore_errors=True)


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI a skip is a failure, but for those that name themselves optional and for expected failures."""
    if not os.environ.get("CLUSTERLM_CI") or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(OPTIONAL):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which must have what this test needs: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of an architecture."""

    def make(architecture: str) -> Path:
        # Only for the tests that want a model: zoo loads torch, and this file also serves alone.
        from tests.engines.zoo import make_model
        from tests.sharing import shared_between_workers

        return shared_between_workers(
            tmp_path_factory, f"tiny-{architecture}", lambda folder: make_model(folder, architecture)
        )

    return make
