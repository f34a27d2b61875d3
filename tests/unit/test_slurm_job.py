"""Scripts of whole runs: as the golden files, quoted through bash, with the user's own options, in containers."""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterlm.errors import UsageError
from clusterlm.slurm.environment import Environment, in_container
from clusterlm.slurm.header import log_path, ranges
from clusterlm.slurm.script import script
from tests.golden.scripts import FOLDER, PYTHON, RUN, cases

CASES = {name: (cluster, job) for name, cluster, job in cases()}


def written(**changes: Any) -> str:
    """For one GPU of LUMI."""
    cluster, job = CASES["lumi-array"]
    return script(cluster, dataclasses.replace(job, **{"tasks": None, "tasks_at_once": None} | changes))


def header(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def refusal(**changes: Any) -> str:
    with pytest.raises(UsageError) as refused:
        written(**changes)
    return str(refused.value)


# -------------------------------------------------------------------------------------------------------- golden files


@pytest.mark.parametrize("name", CASES)
def test_the_script_of_every_shipped_cluster_is_the_golden_one(name: str) -> None:
    """Written anew with: python -m tests.golden.scripts"""
    cluster, job = CASES[name]
    assert script(cluster, job) == (FOLDER / f"{name}.sbatch").read_text("utf-8")


def test_there_is_no_golden_script_too_many() -> None:
    assert {path.stem for path in FOLDER.glob("*.sbatch")} == set(CASES)
    assert len(CASES) >= 28


def test_bash_and_shellcheck_find_nothing_in_the_golden_scripts() -> None:
    scripts = sorted(FOLDER.glob("*.sbatch"))
    for path in scripts:
        assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0, path
    try:
        checked = subprocess.run(["shellcheck", "--severity=style", *scripts], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    assert checked.returncode == 0, checked.stdout


def test_the_successor_is_queued_before_the_work_and_the_end_is_told_after_it() -> None:
    text = written()
    steps = ['job begin "$run"', "clusterlm.worker", 'job end "$run" "$status"', 'exit "$status"']
    assert sorted(steps, key=text.index) == steps
    assert {"--open-mode=append", "--requeue", "--signal=USR1@120"} <= set(header(text))


# ------------------------------------------------------------------------------------------------------ quoted by bash

STUBS = """\
srun() { while [[ "$1" == --* ]]; do shift; done; "$@"; }
"""
PYTHON_STUB = """\
#!/bin/bash
printf '%s\\0' "$@" "$OWN" >> "$SEEN"
case "$*" in *"job begin"*) echo /attempts/1 ;; *"job end"*) exit "${@: -1}" ;; *) exit 75 ;; esac
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """An interpreter that writes down its words, and whose worker stops early."""
    path = tmp_path / 'it\'s a "python" $HOME'
    path.write_text(PYTHON_STUB)
    path.chmod(0o755)
    return path


@given(
    run=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    own=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_path_and_value_reaches_the_worker_as_it_is(stub: Path, run: str, own: str) -> None:
    text = written(
        run=f"/r/{run}",
        python=str(stub),
        environment=Environment(exports=(("OWN", own), ("HF_HOME", "/h")), modules=()),
        cpus_per_task=None,
    )
    seen = stub.parent / "seen"
    seen.unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-c", STUBS + text.replace("#!/bin/bash\n", "", 1)],
        env=os.environ | {"SEEN": str(seen), "SLURM_CPUS_ON_NODE": "4", "USER": "ada"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (75, "")
    words = seen.read_bytes().decode().split("\0")[:-1]
    assert words == [
        *("-m", "clusterlm", "job", "begin", f"/r/{run}", own),
        *("-m", "clusterlm.worker", f"/r/{run}", own),
        *("-m", "clusterlm", "job", "end", f"/r/{run}", "75", own),
    ]


def test_a_percent_sign_in_the_runs_name_is_none_of_slurms_patterns() -> None:
    assert log_path("/100%done", None) == "/100%%done/logs/%j.out"
    assert log_path("/runs/a", (0, 1)) == "/runs/a/logs/%A_%a.out"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((0,), "0"), (range(6), "0-5"), ((9, 0, 2, 5, 8, 6, 7), "0,2,5-9"), ((0, 2, 4), "0,2,4"), ((3, 4), "3-4")],
)
def test_tasks_are_ranges(numbers: Any, expected: str) -> None:
    assert ranges(numbers) == expected


def test_an_array_may_run_a_few_tasks_at_once() -> None:
    assert "--array=0,2,5-9%2" in header(written(tasks=(0, 2, 5, 6, 7, 8, 9), tasks_at_once=2))
    assert "--array=0-1" in header(written(tasks=(0, 1)))


# ----------------------------------------------------------------------------------------------- the user's own options


def test_own_options_follow_or_replace_what_clusterlm_writes() -> None:
    lines = header(written(options=("--reservation=x", "--mail-type END", "-t 1:00:00", "--no-requeue")))
    assert lines[-2:] == ["--mail-type=END", "--no-requeue"]
    assert "--reservation=x" in lines
    assert "--time=1:00:00" in lines
    assert not [line for line in lines if line.startswith("--time=08") or line == "--requeue"]


def test_memory_of_each_cpu_replaces_that_of_the_node() -> None:
    lines = header(written(options=("--mem-per-cpu=4G",)))
    assert "--mem-per-cpu=4G" in lines
    assert not [line for line in lines if line.startswith("--mem=")]


def test_an_own_account_and_qos_win() -> None:
    lines = header(written(account=None, qos="urgent", options=("-A other",)))
    assert {"--account=other", "--qos=urgent"} <= set(lines)


def test_local_disks_stand_beside_the_gpus() -> None:
    cluster, job = CASES["roihu-array"]
    lines = header(script(cluster, dataclasses.replace(job, options=("--gres=nvme:100",))))
    assert "--gres=gpu:gh200:1,nvme:100" in lines


@pytest.mark.parametrize(
    ("option", "named", "hint"),
    [
        ("--array=0-9", "--array would break the run", "--shards"),
        ("-a0-9", "--array would break the run", "--shards"),
        ("--dep=afterok:1", "--dependency would break the run", "queues what follows"),
        ("--output=x", "--output would break the run", "run's folder"),
        ("-e x", "--error would break the run", "run's folder"),
        ("--signal=B:USR1", "--signal would break the run", "told in time"),
        ("--wrap=true", "--wrap would break the run", "script"),
        ("--parsable", "--parsable would break the run", "number"),
        ("--test-only", "--test-only would break the run", "--dry-run"),
        ("--comment=mine", "--comment would break the run", "finds its jobs"),
        ("--export=NONE", "--export would break the run", "variables"),
        ("-N 4", "--nodes would break the run", "the plan counts on it"),
        ("--gres=gpu:2", "GPUs in --gres", "the plan counts on it"),
        ("reservation=x", "is no option of sbatch", '--sbatch "--reservation=x"'),
        ("--comment", "--comment would break the run", "finds its jobs"),
        ("--mail-user=$USER", "Slurm fills in no shell variables", "write it out"),
    ],
)
def test_options_that_would_break_the_run_are_refused_by_name(option: str, named: str, hint: str) -> None:
    message = refusal(options=(option,))
    assert named in message
    assert hint in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "an array has tasks"),
        ({"tasks": (1, 1)}, "each of them once"),
        ({"tasks_at_once": 2}, "--at-once"),
        ({"seconds": 60}, "--time: 00:01:00 is too short: the worker needs 00:02:00 to stop"),
        ({"signal_seconds": 70_000, "seconds": 80_000}, "Slurm warns from 1 to 65,535 s"),
        ({"ranks_per_node": 2}, "2 processes cannot share 1 GCD of a node"),
        ({"environment": Environment(kind="pyxis")}, "pyxis needs the image"),
        ({"run": "/a:b", "environment": in_container("/x.sif", "/p")}, "with a comma or a colon"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(**changes)


# ----------------------------------------------------------------------------------------------------- the environment


def body(**changes: Any) -> list[str]:
    return [line for line in written(**changes).splitlines() if not line.startswith("#SBATCH")]


def test_own_variables_win_and_stand_once() -> None:
    lines = body(environment=Environment(exports=(("HF_HOME", "/my models"), ("TRITON_CACHE_DIR", "/t"))))
    assert [line for line in lines if "HF_HOME=" in line] == ["export HF_HOME='/my models'"]
    assert [line for line in lines if "TRITON_CACHE_DIR=" in line] == ["export TRITON_CACHE_DIR=/t"]


def test_own_modules_replace_the_profiles() -> None:
    assert [line for line in body(environment=Environment(modules=("a/1",))) if line.startswith("module")] == [
        "module load a/1"
    ]
    assert not [line for line in body(environment=Environment(modules=())) if line.startswith("module")]


def test_threads_are_those_of_a_process_and_of_cores() -> None:
    # 7 CPUs of LUMI's 8th; Perlmutter's half of 128 hardware threads are 32 cores; two processes have 16 each.
    assert any('OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"' in line for line in body())
    cluster, job = CASES["perlmutter-array"]
    two = dataclasses.replace(job, gpus_per_node=2, ranks_per_node=2, cpus_per_task=64)
    (line,) = [line for line in script(cluster, two).splitlines() if "OMP_NUM_THREADS" in line]
    expression = line.removeprefix("export OMP_NUM_THREADS=").split(" #")[0]
    done = subprocess.run(["bash", "-c", f"SLURM_CPUS_PER_TASK=64; echo {expression}"], capture_output=True, text=True)
    assert done.stdout == "16\n"


def test_the_network_is_named_to_nccl_and_gloo_where_there_are_several_nodes() -> None:
    line = "export NCCL_SOCKET_IFNAME=hsn0 GLOO_SOCKET_IFNAME=hsn0 # the network between the nodes"
    assert line in script(*CASES["lumi-ranks"])
    assert "SOCKET_IFNAME" not in script(*CASES["lumi-array"])


def test_amd_gpus_are_not_hidden_by_a_second_list() -> None:
    """https://github.com/Parsl/parsl/issues/3858: ROCR_VISIBLE_DEVICES=1 CUDA_VISIBLE_DEVICES=1 leave no GPU."""
    assert "unset HIP_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES" in script(*CASES["lumi-array"])
    assert "MIOPEN_USER_DB_PATH" in script(*CASES["lumi-array"])
    assert "VISIBLE_DEVICES" not in script(*CASES["roihu-array"])
    assert "CUDA_CACHE_PATH" in script(*CASES["roihu-array"])


def test_a_port_that_is_taken_is_passed_over() -> None:
    (line,) = [line for line in script(*CASES["lumi-ranks"]).splitlines() if line.startswith("while")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = f"set -euo pipefail; first=127.0.0.1; port={port}; {line}; echo $port"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert int(done.stdout) > port


def test_a_container_is_started_only_where_it_was_asked_for() -> None:
    assert "singularity exec" not in script(*CASES["lumi-ranks"])
    text = script(*CASES["lumi-container"])
    assert "singularity exec \\\n" in text, "an AMD image has its own ROCm"
    assert "singularity exec --nv \\\n" in script(*CASES["jupiter-container"])
    assert '"$python" -m clusterlm job begin' in text
    assert '"$python" -m clusterlm.worker' not in text


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("/a/b.sif", "singularity"),
        ("/a/b.toml", "edf"),
        ("/a/b.sqsh", "pyxis"),
        ("nvcr.io#nvidia/pytorch:25.06-py3", "pyxis"),
        ("/a:b/c.sif", "singularity"),
    ],
)
def test_an_images_name_says_who_starts_it(image: str, kind: str) -> None:
    assert in_container(image, "/p").kind == kind


def test_a_uenv_is_mounted_by_srun() -> None:
    place = Environment(kind="uenv", image="pytorch/v2.6.0:v1", package="/p/clusterlm")
    text = written(environment=place)
    assert "--uenv=pytorch/v2.6.0:v1 --view=default" in text
    assert 'env PYTHONPATH="$run/package"' in text


def test_run_and_interpreter_are_named_once() -> None:
    text = script(*CASES["lumi-ranks"])
    assert text.count(PYTHON) == 1
    assert text.count(shlex.quote(RUN)) == 1
