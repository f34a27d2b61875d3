"""`clusterlm lab`: starts, fails as it is told to, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterlm.cluster import find_cluster
from clusterlm.errors import SlurmError, UsageError
from clusterlm.slurm import lab as product
from clusterlm.slurm.lab import packages
from clusterlm.slurm.lab.processes import processes_of
from tests.cli.running import clusterlm
from tests.slurm.lab import Lab, skip_without_slurm, watched_folder

MODES = ["netns", "plain"]
Start = Callable[..., product.Lab]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for a lab, stopped and removed afterwards."""
    skip_without_slurm()
    folder = watched_folder() / "lab"
    yield folder
    if found := product.find_lab(folder):
        found.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def started(place: Path) -> Start:
    """Starts labs in folders beside each other."""

    def start(name: str = "", **options: Any) -> product.Lab:
        if options.get("mode") == "netns" and os.geteuid() != 0:
            pytest.skip("optional: needs root")
        return product.start_lab(place.with_name(f"lab{name}"), **options)

    return start


def processes_that_name(folder: Path) -> list[str]:
    """By their command lines and environments, but for this one and those that watch over the tests."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words and b"watchdog" not in words and int(process.name) != os.getpid():
            found.append(f"{process.name} {words[:80]!r}")
    return found


def listening_addresses(pid: int) -> set[str]:
    """Local addresses on which a process takes connections, as its own network sees them."""
    process = Path("/proc") / str(pid)
    sockets = set()
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a daemon closes its files while we look
            sockets.add(str(entry.readlink()))
    found = set()
    for table, letters in (("tcp", 8), ("tcp6", 32)):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            row = line.split()
            if row[3] == "0A" and f"socket:[{row[9]}]" in sockets:
                words = [row[1][start : start + 8] for start in range(0, letters, 8)]
                found.add(str(ipaddress.ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))))
    return found


def network_of(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


def own_addresses(pid: int) -> set[str]:
    """IPv4 addresses of the network that a process is in."""
    command = ["nsenter", "--net", "--target", str(pid), "ip", "-json", "-4", "address"]
    interfaces = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {address["local"] for interface in interfaces for address in interface["addr_info"]}


# ---------------------------------------------------------------------------------------------------- start and stop


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_lab_leaves_no_process_and_no_interface(started: Start, mode: str) -> None:
    lab = started(mode=mode)
    sleeping = Lab(lab.folder).run("sbatch", "--parsable", "--nodes=2", "--gres=gpu:1", "--wrap=srun sleep 1000")
    Lab(lab.folder).until(sleeping.strip(), {"RUNNING"})
    assert processes_that_name(lab.folder)
    lab.stop()
    assert processes_that_name(lab.folder) == []
    assert not Path(f"/sys/class/net/{lab.layout.interface}").exists()
    assert list(Path("/sys/fs/cgroup").glob(f"*/slurm_{lab.layout.nodes[0].name}")) == []


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_ends_nobody_elses_process(started: Start, mode: str) -> None:
    lab = started(mode=mode)
    shell = {**os.environ, "SLURM_CONF": str(lab.slurm_conf), "SLURM_JOB_ID": "1"}  # as in a shell that salloc opened
    with subprocess.Popen(["sleep", "60"], env=shell) as stranger:
        lab.stop()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_steps_start_where_the_machines_name_stands_for_another_loopback_address(place: Path, tmp_path: Path) -> None:
    """As on Debian: 127.0.1.1."""
    if os.geteuid() != 0:
        pytest.skip("optional: needs root, to have another name")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 laptop\n")
    lines = f"""
set -e
hostname laptop
mount --bind {tmp_path}/hosts /etc/hosts
eval "$({sys.executable} -m clusterlm lab start --mode plain --folder {place})"
cd {place}/jobs
timeout 20 srun --nodes=2 echo step
timeout 20 sbatch --wait --nodes=2 --output=out --wrap 'timeout 10 srun echo step of a job'
cat out
"""
    done = subprocess.run(["unshare", "--uts", "--mount", "bash", "-c", lines], capture_output=True, text=True)
    steps = [line for line in done.stdout.splitlines() if "step" in line]
    assert steps == ["step", "step", "step of a job", "step of a job"], done.stderr
    for process in processes_of(place):
        assert listening_addresses(process.pid) <= {"127.0.1.1"}


@pytest.mark.parametrize("mode", MODES)
def test_jobs_get_the_gpus_that_they_ask_for_on_each_node(started: Start, mode: str) -> None:
    lab = Lab(started(mode=mode, nodes="h100:2", gpus=8).folder)
    said = lab.run("srun", "--nodes=2", "--gres=gpu:h100:3", "sh", "-c", "echo $(hostname) $CUDA_VISIBLE_DEVICES")
    hosts, gpus = zip(*(line.split() for line in said.splitlines() if "gpu" not in line), strict=True)
    assert set(gpus) == {"0,1,2"}
    assert len(set(hosts)) == (2 if mode == "netns" else 1)


def test_two_labs_run_side_by_side(started: Start) -> None:
    first, second = started("1"), started("2", nodes="h100:1")
    try:
        assert first.layout.cluster != second.layout.cluster
        for lab, nodes in ((first, 3), (second, 1)):
            assert [node.state for node in lab.status().nodes] == ["idle"] * nodes
            assert Lab(lab.folder).run("srun", "echo", "done") == "done\n"
        first.stop()
        assert second.status().controller == "up"
    finally:
        for lab in (first, second):
            lab.stop()


def test_labs_that_are_started_at_the_same_time_do_not_meet(place: Path) -> None:
    folders = [place.with_name(name) for name in ("left", "right")]
    command = [sys.executable, "-m", "clusterlm", "lab", "start", "--nodes", "v100:1", "--folder"]
    starting = [subprocess.Popen([*command, folder], stderr=subprocess.PIPE) for folder in folders]
    try:
        assert [process.communicate()[1] and process.returncode for process in starting] == [0, 0]
        clusters = [product.lab_status(folder).cluster for folder in folders]
        assert len(set(clusters)) == 2
    finally:
        for folder in folders:
            if found := product.find_lab(folder):
                found.stop()


def test_a_stopped_lab_starts_again_in_its_folder_and_gives_no_job_number_twice(started: Start) -> None:
    lab = started()
    (lab.folder / "jobs" / "mine").write_text("kept")
    first = Lab(lab.folder).run("sbatch", "--parsable", "--wrap=true")
    lab.stop()
    again = started()
    assert int(Lab(again.folder).run("sbatch", "--parsable", "--wrap=true")) > int(first)
    assert (again.folder / "jobs" / "mine").read_text() == "kept"


@pytest.mark.parametrize("mode", MODES)
def test_a_start_that_fails_shows_the_log_and_leaves_nothing_running(started: Start, place: Path, mode: str) -> None:
    with pytest.raises(SlurmError, match=r"slurmctld does not start; the end of its log:(.*\n)*.*Nonsense"):
        started(mode=mode, extra="Nonsense=1\n")
    assert processes_that_name(place) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_no_daemon_can_be_reached_from_another_machine(started: Start, mode: str) -> None:
    skip_without_slurm(accounting=True)
    lab = started(mode=mode, accounting=True)
    job = Lab(lab.folder).run("sbatch", "--parsable", "--nodes=2", "--gres=gpu:1", "--wrap=srun sleep 1000")
    Lab(lab.folder).until(job.strip(), {"RUNNING"})
    seen = set()
    for process in processes_of(lab.folder):
        for address in listening_addresses(process.pid):
            seen.add(process.program)
            if ipaddress.ip_address(address).is_loopback:
                continue
            assert network_of(process.pid) != network_of(os.getpid()), process
            assert own_addresses(process.pid) <= {"127.0.0.1", lab.layout.controller.address} | {
                node.address for node in lab.layout.nodes
            }
    assert {"slurmctld", "slurmdbd", "slurmd"} <= seen
    assert "mariadbd" not in seen, "it has a socket in a closed folder, and no network"


# ------------------------------------------------------------------------------------------------------ what can fail


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_lost_node_takes_its_job_along_and_comes_back(started: Start, mode: str) -> None:
    own = started(mode=mode, nodes="v100:2")
    lab = Lab(own.folder)
    job = lab.run("sbatch", "--parsable", "--requeue", "--wrap=srun sleep 1000").strip()
    node = lab.until(job, {"RUNNING"})["NodeList"]
    time.sleep(1)
    lab.lose(node)
    running = [process for process in Path("/proc").glob("[0-9]*") if on_node(process, own, node)]
    assert running == []
    lab.until_node(node, "down*")
    assert lab.until(job, {"PENDING"})["Restarts"] == "1"
    lab.start_node(node)
    lab.until_node(node, "idle")


def on_node(process: Path, lab: product.Lab, node: str) -> bool:
    try:
        settings = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    ours = any(setting.startswith(b"SLURM_CONF=" + os.fsencode(lab.folder)) for setting in settings)
    return ours and b"SLURMD_NODENAME=" + node.encode() in settings


@pytest.mark.parametrize("mode", MODES)
def test_a_job_outlives_the_daemons_of_its_node_and_of_the_controller(started: Start, mode: str) -> None:
    lab = Lab(started(mode=mode, nodes="v100:1").folder)
    job = lab.run("sbatch", "--parsable", "--wrap=until [ -e go ]; do sleep 0.1; done; echo $HOSTNAME").strip()
    node = lab.until(job, {"RUNNING"})["NodeList"]
    time.sleep(1)
    lab.crash_node(node)
    lab.start_node(node)
    lab.stop_controller()
    assert product.lab_status(lab.folder).controller == "down"
    lab.start_controller()
    (lab.jobs / "go").touch()
    assert lab.finish(job)["JobState"] == "COMPLETED"


def test_a_node_that_is_not_there_is_named_with_those_that_are(started: Start) -> None:
    lab = started(nodes="v100:1")
    done = clusterlm("lab", "node", "nodes7", "lose", "--folder", lab.folder)
    assert done.exit_code == 2
    assert f"there is: controller, {lab.layout.nodes[0].name}" in done.stderr


# ------------------------------------------------------------------------------------------------------- as a user


def test_a_shell_speaks_to_the_lab_after_one_line(place: Path) -> None:
    program = f"{sys.executable} -m clusterlm lab"
    lines = f"""
eval "$({program} start --folder {place} --nodes 'a100:1 v100:2' --gpus 2)"
sinfo --noheader --Node --partition=gpu --format='%G %T'
{program} status --folder {place}
{sys.executable} -m clusterlm clusters show lab
{program} stop --folder {place}
{program} status --folder {place}
"""
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd="/")
    assert done.stdout.splitlines()[:3] == ["gpu:a100:2 idle", "gpu:v100:2 idle", "gpu:v100:2 idle"], done.stderr
    assert "the controller is up" in done.stdout
    assert "probe" in done.stdout
    assert done.stdout.endswith(f"no lab is running in {place}\n")
    assert done.returncode == 3
    assert f"clusterlm lab stop --folder {place}" in done.stderr


def test_the_profile_of_the_lab_is_found_by_its_name_and_recognised(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = clusterlm("lab", "start", "--folder", place)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"export SLURM_CONF={place}/slurm.conf\n"
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    assert set(find_cluster("lab").nodes) == {"v100", "a100"}
    planned = clusterlm("plan", "gpt2", "--on", "auto")
    assert "Fits" in planned.stdout, planned.output


def test_a_second_start_in_the_same_folder_is_refused_and_harms_nothing(place: Path) -> None:
    assert clusterlm("lab", "start", "--folder", place, "--nodes", "v100:1").exit_code == 0
    again = clusterlm("lab", "start", "--folder", place)
    assert again.exit_code == 2
    assert f"a lab runs in {place}" in again.stderr
    status = json.loads(clusterlm("lab", "status", "--folder", place, "--json").stdout)
    assert [node["state"] for node in status["nodes"]] == ["idle"]


def test_a_lab_that_does_not_run_is_said_to_be_so(tmp_path: Path) -> None:
    assert clusterlm("lab", "stop", "--folder", tmp_path).exit_code == 0
    status = clusterlm("lab", "status", "--folder", tmp_path, "--json")
    assert (status.exit_code, json.loads(status.stdout)["running"]) == (3, False)
    assert clusterlm("lab", "node", "node1", "lose", "--folder", tmp_path).exit_code == 1


def test_an_ordinary_user_has_a_lab_too(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("optional: needs root, to become another user")
    nobody = pwd.getpwnam("nobody")
    as_nobody = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    settings = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    if subprocess.run([*as_nobody, sys.executable, "-c", "import clusterlm"], env=settings).returncode:
        pytest.skip("optional: needs a checkout that others can read")
    place.mkdir()
    os.chown(place, nobody.pw_uid, nobody.pw_gid)

    def lab(*arguments: str) -> str:
        command = [*as_nobody, sys.executable, "-m", "clusterlm", "lab", *arguments, "--folder", place]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        return done.stdout

    configuration = lab("start").removeprefix("export SLURM_CONF=").strip()
    assert json.loads(lab("status", "--json"))["mode"] == "plain"
    job = ["srun", "--chdir=/", "--nodes=2", "--gres=gpu:v100:1", "id", "--user", "--name"]
    ran = subprocess.run(
        [*as_nobody, *job], env={**settings, "SLURM_CONF": configuration}, capture_output=True, cwd="/"
    )
    assert ran.stdout == b"nobody\nnobody\n", ran.stderr
    lab("stop")
    assert processes_that_name(place) == []


# -------------------------------------------------------------------------------------------------- what is refused


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages, "WHERE_DAEMONS_ARE", ())
    done = clusterlm("lab", "start", "--folder", tmp_path / "lab")
    assert done.exit_code == 1
    assert re.search("apt-get install --no-install-recommends slurm-wlm munge util-linux( iproute2)?\n", done.stderr)
    assert "another distribution calls the packages otherwise" in done.stderr
    assert not (tmp_path / "lab").exists()
    accounted = clusterlm("lab", "start", "--accounting", "--folder", tmp_path / "lab")
    assert "slurmdbd mariadb-server" in accounted.stderr


@pytest.mark.parametrize(
    ("nodes", "said"),
    [("v100", "is not TYPE:NUMBER"), ("v100:0", "is not TYPE:NUMBER"), ("v100:61", "1 to 60 nodes"), ("gpu:1", "gpu")],
)
def test_nodes_that_make_no_sense_are_refused(tmp_path: Path, nodes: str, said: str) -> None:
    done = clusterlm("lab", "start", "--folder", tmp_path / "lab", "--nodes", nodes)
    assert (done.exit_code, done.stderr.count(said)) == (2, 1), done.output


def test_a_folder_that_munged_would_refuse_is_named(tmp_path: Path) -> None:
    skip_without_slurm()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UsageError, match="is closed to other users"):
        product.start_lab(closed / "lab")


def test_a_folder_with_other_things_is_left_alone(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        product.start_lab(place)
    assert [file.name for file in place.iterdir()] == ["thesis.tex"]


def test_the_lab_is_in_tmp_where_the_home_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert product.default_folder() == Path(f"/tmp/clusterlm-lab-{os.getuid()}"), "pytest's folders are closed"
