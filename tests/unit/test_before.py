"""Before the queue, as far as no Slurm is needed: time, idle GPUs, file systems, room, quotas, storage areas."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterlm.cluster import Cluster, find_cluster
from clusterlm.cluster.profile import Storage
from clusterlm.errors import ClusterlmError, RunError, UsageError
from clusterlm.model.find import find_model
from clusterlm.planning.wishes import Wishes
from clusterlm.runs.asked import Asked
from clusterlm.runs.before import look_ahead, mounts
from clusterlm.runs.before.areas import advice, area_of
from clusterlm.runs.before.count import of_count
from clusterlm.runs.before.plan import of_idle_gpus, of_time
from clusterlm.runs.before.quota import PROJECT, Quota, quota_in
from clusterlm.runs.before.room import of_room
from clusterlm.runs.folder import RunFolder, folder_for
from clusterlm.runs.order import Order, Terms, order
from clusterlm.spec import GenerateSpec, make_spec


@pytest.fixture
def lumi() -> Cluster:
    return find_cluster("lumi")


def wanted(folder: Path, records: int = 1000, **settings: object) -> Asked:
    (folder / "prompts.txt").write_text("".join(f"The number {number} is\n" for number in range(records)))
    output = folder / "answers.jsonl"
    spec = make_spec(
        GenerateSpec, {"model": "m", "input": str(folder / "prompts.txt"), "output": str(output), **settings}
    )
    return Asked(spec, folder / "prompts.txt", "mistralai/Mistral-7B-v0.1", folder, "f", records, "d")


def ordered(asked: Asked, cluster: Cluster, placing: Wishes | None = None, **terms: object) -> Order:
    said = Terms(account="project_1", **terms)  # type: ignore[arg-type]
    shape = find_model("mistralai/Mistral-7B-v0.1")
    return order(asked, folder_for(asked.spec), cluster, shape, placing or Wishes(), said)


# ------------------------------------------------------------------------------------------------------ time and GPUs


def test_a_job_that_fits_its_plan_gets_no_note(lumi: Cluster, tmp_path: Path) -> None:
    made = ordered(wanted(tmp_path), lumi)
    assert [*of_time(made), *of_idle_gpus(made)] == []


def test_a_time_that_ends_before_the_first_record_is_refused_with_one_that_does_not(
    lumi: Cluster, tmp_path: Path
) -> None:
    asked = wanted(tmp_path, max_new_tokens=4096)
    enough = ordered(asked, lumi).job.seconds
    with pytest.raises(UsageError) as refusal:
        list(of_time(ordered(asked, lumi, seconds=60)))
    assert refusal.value.where == "--time"
    assert "00:01:00 is over before the first record is done: the model takes about" in refusal.value.problem
    assert refusal.value.hint == f"--time {enough // 3600:02}:{enough // 60 % 60:02}:00, or leave it to the plan"


def test_a_time_shorter_than_the_work_is_told_as_a_chain_of_so_many_jobs(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, records=20_000)
    placing = Wishes(gpus=1, partition="small-g")
    alone = ordered(asked, lumi, placing).best.duration
    work, load = alone.middle - alone.load, alone.load
    seconds = round(work / 3.5 + 2 * load)  # so each job works for 1 / 3.5 of it
    (note,) = of_time(ordered(asked, lumi, placing, seconds=seconds))
    assert note.endswith("about 4 jobs, each continues the last")
    first, second = of_time(ordered(asked, lumi, placing, seconds=seconds, max_attempts=3))
    assert (first, second) == (note, "--max-attempts 3 will stop it before its end: it needs about 4")
    (_, hours) = of_time(ordered(asked, lumi, placing, seconds=seconds, max_seconds=900))
    assert hours.startswith("--max-hours 0.25 will stop it before its end: it takes about")


def test_gpus_that_would_be_idle_are_counted_and_the_flags_that_use_them_named(lumi: Cluster, tmp_path: Path) -> None:
    # standard-g gives whole nodes of 8 GCDs; small-g gives parts. Source: src/clusterlm/clusters/lumi.toml
    made = ordered(wanted(tmp_path), lumi, Wishes(gpus=3, partition="standard-g"))
    (note,) = of_idle_gpus(made)
    assert note == (
        "5 of the 8 GCDs that a job gets and pays for stay idle: standard-g gives whole nodes of 8; "
        "--copies 8 uses them, --partition small-g gives parts of a node"
    )


def test_more_shards_than_this_slurm_holds_jobs_are_refused(lumi: Cluster, tmp_path: Path) -> None:
    made = ordered(wanted(tmp_path), lumi, shards=200)
    with pytest.raises(UsageError, match="200 shards are 200 jobs, and this Slurm holds 100 of all its users"):
        list(of_count(made, lumi, {"MaxJobCount": "100"}))


# -------------------------------------------------------------------------------------------------------------- Slurm


def test_where_there_is_no_slurm_a_dry_run_is_checked_by_the_plan_alone(
    lumi: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = wanted(tmp_path)
    made, run = ordered(asked, lumi), folder_for(asked.spec)
    (note,) = look_ahead(made, asked, run, lumi, dry_run=True)
    assert note.startswith("nothing but the plan was checked: there is no Slurm here")
    with pytest.raises(ClusterlmError) as refusal:
        look_ahead(made, asked, run, lumi)
    assert refusal.value.where == "--on lumi"
    assert "there is no Slurm here: the command scontrol is missing" in refusal.value.problem
    assert refusal.value.hint is not None and "--dry-run shows the script" in refusal.value.hint


# ------------------------------------------------------------------------------------------------------- file systems

MOUNTS = r"""
rootfs / tmpfs rw,size=8g 0 0
/dev/sda2 /tmp xfs rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
10.0.0.1@o2ib:/p1 /pfs/lustrep1 lustre rw,flock 0 0
nas:/home /users nfs4 rw 0 0
systemd-1 /data autofs rw 0 0
nas:/data /data nfs rw 0 0
gpfs1 /gpfs/with\040blank gpfs rw 0 0
sshfs#x /mnt/remote fuse.sshfs rw 0 0
/dev/sdb1 /srv ext4 rw 0 0
"""
"""In the form of proc(5)."""


@pytest.mark.parametrize(
    ("path", "kind", "seen_by_others"),
    [
        ("/pfs/lustrep1/scratch/project_1", "lustre", True),
        ("/users/me", "nfs4", True),
        ("/data/models", "nfs", True),
        ("/gpfs/with blank/x", "gpfs", True),
        ("/mnt/remote/x", "fuse.sshfs", True),
        ("/tmp/x", "xfs", False),
        ("/dev/shm/x", "tmpfs", False),
        ("/opt/x", "tmpfs", False),
        ("/srv/x", "ext4", False),
        ("/srvx", "tmpfs", False),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_deepest_and_last_mount(
    path: str, kind: str, seen_by_others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS.lstrip())
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    found = mounts.file_system_of(Path(path))
    assert found is not None
    assert (found.type, found.is_shared) == (kind, seen_by_others)


def test_what_this_machine_serves_by_nfs_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etab").write_text("/srv/my\\040home\t10.0.0.0/24(rw,sync)\n")  # in the form of exportfs(8)
    monkeypatch.setattr(mounts, "EXPORTED", tmp_path / "etab")
    assert mounts.is_exported(Path("/srv/my home/me"))
    assert not mounts.is_exported(Path("/srv/other"))


def test_the_mounts_of_this_machine_are_read() -> None:
    found = mounts.file_system_of(Path("/proc/self"))
    assert found is not None and (str(found.mount), found.type) == ("/proc", "proc")


# ------------------------------------------------------------------------------------------------------ storage areas


def with_areas(cluster: Cluster, *areas: Storage) -> Cluster:
    return dataclasses.replace(cluster, storage={str(number): area for number, area in enumerate(areas)})


def test_a_path_is_found_in_the_deepest_area_whose_variables_it_fits(
    lumi: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "me")
    for unset in ("PROJECT", "SCRATCH"):
        monkeypatch.delenv(unset, raising=False)
    wide, deep, unknown = (
        Storage(source="s", path=path, use="scratch") for path in ("/a", "/a/$PROJECT/fast", "$SCRATCH")
    )
    cluster = with_areas(lumi, wide, deep, unknown)
    assert area_of(Path("/a/project_1/fast/run"), cluster) is deep
    assert area_of(Path("/a/project_1/fastest"), cluster) is wide
    assert area_of(Path("/ab"), cluster) is None
    assert area_of(Path("/users/me/x"), with_areas(lumi, Storage(source="s", path="/users/$USER", use="home")))


def test_advice_names_the_places_for_work(lumi: Cluster) -> None:
    assert advice(lumi) == "below /scratch/$PROJECT (scratch) or /project/$PROJECT (project)"
    assert advice(find_cluster("generic")).startswith("where the nodes see it too")


# --------------------------------------------------------------------------------------------------------------- room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("optional: needs root, to mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=40", "tmpfs", place])
    if mounted.returncode:
        pytest.skip("optional: needs the right to mount")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def of_disk(asked: Asked, made: Order, folder: Path, cluster: Cluster) -> list[str]:
    return list(of_room(made, asked, RunFolder(folder / "answers.jsonl.run"), cluster))


def test_a_disk_without_room_for_the_shortest_answers_is_refused(
    lumi: Cluster, tmp_path: Path, small_disk: Path
) -> None:
    asked = wanted(tmp_path, records=2000)  # 2000 x 150 bytes = 293 KiB
    with pytest.raises(RunError) as refusal:
        of_disk(asked, ordered(asked, lumi), small_disk, lumi)
    assert refusal.value.problem == f"256.0 KiB left on {small_disk}; this run needs 293.0 KiB at least"
    assert refusal.value.where == str(small_disk / "answers.jsonl.run")
    assert refusal.value.hint is not None and "-o FILE below /scratch/$PROJECT (scratch)" in refusal.value.hint


def test_a_disk_with_too_few_files_left_is_refused(lumi: Cluster, tmp_path: Path, small_disk: Path) -> None:
    asked = wanted(tmp_path, records=100)
    with pytest.raises(RunError, match=r"39 files left on .*; this run needs 54 files at least"):
        of_disk(asked, ordered(asked, lumi, shards=5), small_disk, lumi)  # 14 + 5 shards x 8


def test_a_disk_that_long_answers_may_fill_is_a_note(lumi: Cluster, tmp_path: Path, small_disk: Path) -> None:
    asked = wanted(tmp_path, records=100, max_new_tokens=1000)
    (note,) = of_disk(asked, ordered(asked, lumi), small_disk, lumi)
    assert note.startswith(f"256.0 KiB left on {small_disk}; the longest answers would take 1009.8 KiB")


def test_the_quota_of_the_profile_is_told_where_it_may_be_too_small(lumi: Cluster, tmp_path: Path) -> None:
    asked = wanted(tmp_path, records=100, max_new_tokens=1000)
    home = Storage(source="s", path=str(tmp_path), use="home", quota_gib=0.0005, quota_files=20)
    notes = of_disk(asked, ordered(asked, lumi), tmp_path, with_areas(lumi, home))
    assert [note.split(";")[0] for note in notes] == [
        f"524.3 KiB in all is the usual quota on {tmp_path}",
        f"20 files in all is the usual quota on {tmp_path}",
    ]


# RECORDED, published by their sites: NREL's Eagle (monthly update of November 2020), EPCC's Cirrus (user documentation)
# with -h left out and its numbers in KiB, a site whose names are long (the row is broken), and one without limits.
EAGLE = """Disk quotas for prj 110255 (pid 110255):

       Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace

/projects/csc000 3165308*   3072    4096       -      48  1073741824 2147483648       -
"""
BROKEN_ROW = """Disk quotas for prj 2228473301 (pid 2228473301):
     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
/hpc/projects/group.royer
                1225350212       0       {limit}       -  714982       0       0       -
pid 2228473301 is using default block quota setting
"""


@pytest.mark.parametrize(
    ("said", "quota"),
    [
        (EAGLE, Quota("your", 0, 2_147_483_648 - 48)),
        (BROKEN_ROW.format(limit=1225350312), Quota("your", 100 * 1024, None)),
        (BROKEN_ROW.format(limit=0), None),
        ("", None),
        ("Unexpected quotactl error: Operation not supported\n", None),
        ("/x [3165308]*   3072    4096       -      48  0 0       -\n", None),
    ],
)
def test_what_lfs_quota_prints_is_read(said: str, quota: Quota | None) -> None:
    assert quota_in(said, "your") == quota


@pytest.mark.parametrize(
    ("said", "project"),
    [
        ("110255 P /projects/csc000\n", "110255"),  # RECORDED: NREL's Eagle
        ("    0 - /users/me\n", None),
        ("", None),
    ],
)
def test_the_project_of_a_folder_is_read_from_what_lfs_prints(said: str, project: str | None) -> None:
    found = PROJECT.match(said)
    assert (found["id"] if found else None) == project
