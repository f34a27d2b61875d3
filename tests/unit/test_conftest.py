"""The rules that every test runs under, seen from outside: a small test run in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharing import shared_between_workers

TESTS = Path(__file__).parents[1]

SKIPPING = """
    import pytest

    @pytest.mark.skipif(True, reason="{reason}")
    def test_marked(): ...

    def test_called():
        pytest.skip("{reason}")

    @pytest.mark.xfail
    def test_known_to_fail():
        assert False
"""


def run_pytest(folder: Path, test_file: str, *, in_ci: bool) -> str:
    """The last line of a test run of one file below our conftest.py."""
    shutil.copy(TESTS / "conftest.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text("\n".join(line[4:] for line in test_file.splitlines()))
    environment = {name: value for name, value in os.environ.items() if name != "CLUSTERLM_CI"}
    environment |= {"CLUSTERLM_CI": "1"} if in_ci else {}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "test_it.py"]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return run.stdout.splitlines()[-1]


def test_a_skip_outside_of_ci_is_a_skip(tmp_path: Path) -> None:
    outcome = run_pytest(tmp_path, SKIPPING.format(reason="apt-get install slurm-wlm"), in_ci=False)
    assert "2 skipped, 1 xfailed" in outcome


def test_a_skip_in_ci_is_a_failure(tmp_path: Path) -> None:
    outcome = run_pytest(tmp_path, SKIPPING.format(reason="apt-get install slurm-wlm"), in_ci=True)
    assert "1 failed, 1 xfailed, 1 error" in outcome  # a mark skips in the set-up, which pytest counts as an error


def test_a_skip_that_calls_itself_optional_stays_a_skip_in_ci(tmp_path: Path) -> None:
    outcome = run_pytest(tmp_path, SKIPPING.format(reason="optional: needs a GPU"), in_ci=True)
    assert "2 skipped, 1 xfailed" in outcome


def test_a_whole_file_that_is_skipped_in_ci_is_a_failure(tmp_path: Path) -> None:
    outcome = run_pytest(tmp_path, "    import pytest\n    pytest.importorskip('no_such_module')", in_ci=True)
    assert "1 error" in outcome


def test_tests_do_not_see_the_users_home_and_cannot_reach_a_hub() -> None:
    import huggingface_hub.constants

    home = Path(os.environ["HOME"])
    assert home.name.startswith("clusterlm-tests-")
    assert Path(huggingface_hub.constants.HF_HUB_CACHE).is_relative_to(home)
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_shared_folder_is_made_once_and_a_failed_attempt_leaves_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    attempts = []

    def make(folder: Path) -> None:
        attempts.append(folder)
        (folder / "half").touch()
        if len(attempts) == 1:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        shared_between_workers(tmp_path_factory, "dear", make)
    folder = shared_between_workers(tmp_path_factory, "dear", make)
    assert folder == shared_between_workers(tmp_path_factory, "dear", make)
    assert len(attempts) == 2
    assert [file.name for file in folder.iterdir()] == ["half"]
