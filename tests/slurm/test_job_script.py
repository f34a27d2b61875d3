"""Scripts of whole runs on a real Slurm: taken, executed, signalled, put back; ranks on two nodes find each other."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterlm.cluster import Cluster
from clusterlm.slurm.environment import Environment
from clusterlm.slurm.header import log_path
from clusterlm.slurm.job import Job
from clusterlm.slurm.observation import observe
from clusterlm.slurm.probe import probe
from clusterlm.slurm.script import script
from tests.golden.scripts import cases
from tests.slurm.lab import Lab

STUB = """\
#!/bin/bash
# An interpreter whose worker ends with the status in STATUS.
case "$*" in
*"job begin"*) echo "$3" ;;
*"job end"*) echo "the end: ${*: -1}"; exit "${@: -1}" ;;
*) echo "words: $*"; sleep 0.5; exit "${STATUS:-0}" ;;
esac
"""
CONTAINER = """\
#!/bin/bash
# Starts in place of a container what would start in it, with the interpreter beside this script.
until [[ "$1" == *.sif ]]; do shift; done
shift
PATH="$(dirname "$0"):$PATH" exec "$@"
"""
COMMANDS = """\
import os, sys
if sys.argv[2] == "begin":
    print(sys.argv[3])
else:
    print("the end:", sys.argv[4])
    sys.exit(int(sys.argv[4]))
"""
WORKER = """\
import atexit, os, signal, socket, sys, time
got = []
for name in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(name, lambda number, frame: got.append(number))
rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
def say(*words):
    line = " ".join(map(str, words))
    sys.stdout.write(f"rank {rank} of {ranks} on {socket.gethostname()}: {line}\\n")
if ranks > 1:
    import torch, torch.distributed as distributed
    distributed.init_process_group("gloo")
    atexit.register(distributed.destroy_process_group)
    total = torch.ones(1) * (rank + 1)
    distributed.all_reduce(total)
    say("sum", int(total), "from", socket.gethostbyname(socket.gethostname()))
say("ready", os.environ.get("TORCHELASTIC_RUN_ID"), os.environ.get("SLURM_RESTART_COUNT", 0))
say("caches", os.environ["XDG_CACHE_HOME"])
if os.environ["DO"] == "die" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["DO"] == "wait":
    ends = time.time() + 90
    while not got and time.time() < ends:
        time.sleep(0.1)
    say("stopped by", signal.Signals(got[0]).name)
    sys.exit(0 if ranks > 1 else 128 + got[0])
while os.environ["DO"] == "die":
    distributed.all_reduce(torch.ones(1))
"""


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    return probe(observe(), "here").cluster


@pytest.fixture
def run(lab: Lab, request: pytest.FixtureRequest) -> Path:
    """The folder of a run, with a name that asks for quotes."""
    name = re.sub(r"\W", "-", request.node.name)
    folder = lab.jobs / f'it\'s 100%j "{name}" #{os.getpid()}'
    (folder / "logs").mkdir(parents=True)
    return folder


@pytest.fixture
def package(run: Path) -> str:
    """Stands for clusterlm on the nodes: its worker does what DO says."""
    folder = run / "stub" / "clusterlm"
    folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("__main__", COMMANDS), ("worker", WORKER)):
        (folder / f"{name}.py").write_text(text)
    return str(folder.parent)


def job(run: Path, package: str = "", do: str = "", **changes: Any) -> Job:
    plain: dict[str, Any] = {
        "name": "a run",
        "partition": "gpu",
        "node_type": "v100",
        "nodes": 1,
        "gpus_per_node": 1,
        "seconds": 600,
        "run": str(run),
        "python": sys.executable,
        "output": log_path(str(run), changes.get("tasks")),
        "environment": Environment(exports=(("PYTHONPATH", package), ("DO", do))),
    }
    return Job(**plain | changes)


def log_of(run: Path, number: str) -> str:
    path = run / "logs" / f"{number}.out"
    return path.read_text() if path.exists() else ""


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.1)


# ----------------------------------------------------------------------------------------- scripts of shipped clusters

OF_THE_SITE = "partition|qos|account|constraint|nodelist|gres|gpus-per-node|time|mem|output"


def mapped(text: str, output: str) -> str:
    """The script for two nodes of the lab: what names the site's own is replaced, all else stays as it is."""
    lines = [line for line in text.splitlines() if not re.match(rf"#SBATCH --({OF_THE_SITE})=", line)]
    cpus = [re.sub(r"--cpus-per-task=\d+", "--cpus-per-task=2", line) for line in lines]
    gpus = ["#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --time=00:10:00"]
    return "\n".join([cpus[0], *gpus, f'#SBATCH --output="{output}"', *cpus[1:]]) + "\n"


CASES = {name: (cluster, one) for name, cluster, one in cases()}
STARTED_BY_SRUN = ("clariden-container", "generic-container")
"""They need a plugin of Slurm."""


@pytest.mark.parametrize("name", CASES)
def test_sbatch_takes_the_header_of_every_shipped_cluster(lab: Lab, name: str) -> None:
    path = lab.jobs / f"{name}.sbatch"
    path.write_text(mapped(script(*CASES[name]), "/tmp/x y/%j.out"))
    assert "to start at" in lab.run("sbatch", "--test-only", str(path))


@pytest.mark.slow
def test_every_shipped_clusters_script_ends_with_the_workers_status(
    lab: Lab, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = run / "it's python"
    commands = run / "bin"
    commands.mkdir()
    for path, text in ((stub, STUB), (commands / "python3", STUB), (commands / "singularity", CONTAINER)):
        path.write_text(text)
        path.chmod(0o755)
    for name in ("SCRATCH", "PSCRATCH", "WORK"):
        monkeypatch.setenv(name, str(run))
    monkeypatch.setenv("HF_HOME", str(run / "models"))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("BASH_FUNC_module%%", '() { : "$NOT_SET"\n}')
    monkeypatch.setenv("STATUS", "75")
    jobs = {}
    for name, (cluster, one) in CASES.items():
        if name not in STARTED_BY_SRUN:
            text = script(cluster, dataclasses.replace(one, run=str(run), python=str(stub), tasks=one.tasks and (4,)))
            jobs[name] = lab.submit(mapped(text.replace("%3\n", "\n"), f"{lab.jobs}/{name}.out"))
    for name, number in jobs.items():
        ended = lab.finish(number, seconds=120)
        log = (lab.jobs / f"{name}.out").read_text()
        assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "75:0"), f"{name}: {log}"
        assert f"-m clusterlm.worker {run}\n" in log
        assert log.splitlines()[-1] == "the end: 75"


# ------------------------------------------------------------------------------------------------------ one process


@pytest.mark.parametrize("status", [0, 3, 70])
def test_the_status_of_the_worker_is_that_of_the_job(lab: Lab, cluster: Cluster, run: Path, status: int) -> None:
    stub = run / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    environment = Environment(exports=(("STATUS", str(status)),))
    number = lab.submit(script(cluster, job(run, python=str(stub), environment=environment)))
    assert lab.finish(number)["ExitCode"] == f"{status}:0"
    assert log_of(run, number).splitlines()[-1] == f"the end: {status}"


def test_the_tasks_of_an_array_have_a_log_each(lab: Lab, cluster: Cluster, run: Path, package: str) -> None:
    number = lab.submit(script(cluster, job(run, package, tasks=(0, 2, 3), tasks_at_once=2)))
    until(lambda: all("the end: 0" in log_of(run, f"{number}_{task}") for task in (0, 2, 3)))
    assert len(list((run / "logs").iterdir())) == 3


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), (4, 4)])
def test_a_process_has_as_many_threads_as_its_job_has_cpus(
    lab: Lab, cluster: Cluster, run: Path, asked: int | None, threads: int
) -> None:
    stub = run / "python"
    stub.write_text('#!/bin/bash\ncase "$*" in *"job end"*) echo "threads=$OMP_NUM_THREADS";; esac\n')
    stub.chmod(0o755)
    number = lab.submit(script(cluster, job(run, python=str(stub), cpus_per_task=asked)))
    lab.finish(number)
    assert log_of(run, number) == f"threads={threads}\n"


def test_a_signal_stops_the_worker_and_the_script_has_its_last_word(
    lab: Lab, cluster: Cluster, run: Path, package: str
) -> None:
    number = lab.submit(script(cluster, job(run, package, "wait")))
    until(lambda: "ready" in log_of(run, number))
    lab.run("scancel", "--signal=USR1", number)
    assert lab.finish(number)["ExitCode"] == "138:0"
    assert "stopped by SIGUSR1" in log_of(run, number)
    assert log_of(run, number).splitlines()[-1] == "the end: 138"


def test_a_cancelled_worker_stops_by_itself_and_the_script_has_its_last_word(
    lab: Lab, cluster: Cluster, run: Path, package: str
) -> None:
    number = lab.submit(script(cluster, job(run, package, "wait")))
    until(lambda: "ready" in log_of(run, number))
    lab.run("scancel", number)
    assert lab.finish(number)["JobState"] == "CANCELLED"
    until(lambda: "the end: 143" in log_of(run, number))
    assert "stopped by SIGTERM" in log_of(run, number)


@pytest.mark.slow
def test_slurm_warns_the_worker_before_the_time_limit(lab: Lab, cluster: Cluster, run: Path, package: str) -> None:
    """At 10 s of 120, or up to a minute earlier: sbatch(1) of --signal."""
    number = lab.submit(script(cluster, job(run, package, "wait", seconds=120, signal_seconds=110)))
    assert lab.finish(number, seconds=90)["ExitCode"] == "138:0"


def test_a_job_put_back_into_the_queue_writes_on_in_its_log(
    lab: Lab, cluster: Cluster, run: Path, package: str
) -> None:
    number = lab.submit(script(cluster, job(run, package, "wait")))
    until(lambda: "ready None 0" in log_of(run, number))
    lab.run("scontrol", "requeue", number)
    until(lambda: "JobState=PENDING" in lab.run("scontrol", "show", "job", number))
    time.sleep(2)  # a start in the second of the end is refused
    lab.run("scontrol", "update", f"JobId={number}", "StartTime=now")
    until(lambda: "ready None 1" in log_of(run, number))
    assert "ready None 0" in log_of(run, number)
    lab.run("scancel", number)


def test_caches_are_on_the_node_and_gone_afterwards(lab: Lab, cluster: Cluster, run: Path) -> None:
    stub = run / "python"
    stub.write_text('#!/bin/bash\ncase "$*" in *worker*) echo "$XDG_CACHE_HOME"; touch "$XDG_CACHE_HOME/a";; esac\n')
    stub.chmod(0o755)
    number = lab.submit(script(cluster, job(run, python=str(stub))))
    lab.finish(number)
    (folder,) = log_of(run, number).splitlines()
    assert folder.startswith(os.environ.get("TMPDIR", "/tmp"))
    assert not Path(folder).exists()


def test_on_amd_gpus_one_list_of_them_is_left(lab: Lab, cluster: Cluster, run: Path) -> None:
    """Slurm writes CUDA_VISIBLE_DEVICES beside ROCR_VISIBLE_DEVICES where it does not know the maker, as in the lab."""
    stub = run / "python"
    stub.write_text(
        '#!/bin/bash\ncase "$*" in *worker*) echo "${ROCR_VISIBLE_DEVICES-} ${CUDA_VISIBLE_DEVICES-none}";; esac\n'
    )
    stub.chmod(0o755)
    nodes = {name: dataclasses.replace(node, gpu="mi250x") for name, node in cluster.nodes.items()}
    wanted = job(run, python=str(stub), gpus_per_node=2)
    number = lab.submit(script(dataclasses.replace(cluster, nodes=nodes), wanted))
    lab.finish(number)
    assert re.fullmatch(r"\d,\d none\n", log_of(run, number))


# ---------------------------------------------------------------------------------------------------------------- ranks


@pytest.fixture
def two_hosts(lab: Lab) -> None:
    addresses = re.findall(r"NodeAddr=(\S+)", lab.run("scontrol", "show", "node"))
    if len(set(addresses)) < 2:
        pytest.skip("needs nodes with addresses of their own, which only root can make")


@pytest.mark.slow
@pytest.mark.usefixtures("two_hosts")
def test_ranks_on_two_nodes_add_up_and_stop_together(lab: Lab, cluster: Cluster, run: Path, package: str) -> None:
    wanted = job(run, package, "wait", nodes=2, gpus_per_node=2, ranks_per_node=2, cpus_per_task=4)
    number = lab.submit(script(cluster, wanted))
    until(lambda: log_of(run, number).count(": sum 10") == 4, seconds=120)  # 1 + 2 + 3 + 4
    until(lambda: log_of(run, number).count(f": ready {number}.0 0") == log_of(run, number).count("caches") == 4)
    assert len(set(re.findall(r"sum 10 from (\S+)", log_of(run, number)))) == 2
    (caches,) = set(re.findall(r"caches (\S+)", log_of(run, number)))
    lab.run("scancel", "--signal=USR1", number)
    ended = lab.finish(number)
    log = log_of(run, number)
    assert (ended["JobState"], log.count("stopped by SIGUSR1")) == ("COMPLETED", 4), log
    assert not Path(caches).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("two_hosts")
def test_the_death_of_one_rank_ends_the_job_within_a_minute(
    lab: Lab, cluster: Cluster, run: Path, package: str
) -> None:
    number = lab.submit(script(cluster, job(run, package, "die", nodes=2, gpus_per_node=2, ranks_per_node=2)))
    until(lambda: log_of(run, number).count(": ready") == 4, seconds=120)
    ended = lab.finish(number, seconds=60)
    log = log_of(run, number)
    assert ended["JobState"] == "FAILED"
    assert ended["ExitCode"] != "0:0"
    assert "Signal 9 (SIGKILL) received" in log
    assert "the end: " in log


@pytest.mark.slow
def test_ranks_on_one_node_need_no_address(lab: Lab, cluster: Cluster, run: Path, package: str) -> None:
    number = lab.submit(script(cluster, job(run, package, gpus_per_node=2, ranks_per_node=2)))
    assert lab.finish(number, seconds=120)["ExitCode"] == "0:0", log_of(run, number)
    assert log_of(run, number).count(": sum 3") == 2
