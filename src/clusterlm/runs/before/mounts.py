"""Which file system a path lies on, and whether other machines see it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
EXPORTED = Path("/var/lib/nfs/etab")
"""What this machine serves to others by NFS; all may read it."""
SHARED = re.compile(
    r"nfs\d?|lustre\w*|gpfs|mmfs|beegfs|fhgfs\w*|wekafs|ceph|panfs|cifs|smb3?|orangefs|pvfs2|afs|9p|virtiofs|dvs|gfs2"
    r"|ocfs2|glusterfs|vastfs|quobyte|fuse\..+"
)
"""Types that several machines mount, or may: what is wrongly taken for shared is no false refusal."""
IN_MEMORY = re.compile(r"tmpfs|ramfs|devtmpfs")
LOCAL_DISK = re.compile(r"ext[234]|xfs|btrfs|zfs|f2fs|jfs|reiserfs|overlay|squashfs|vfat|exfat")
OF_EACH_MACHINE = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/run")))
"""Folders that every machine has for itself."""


@dataclass(frozen=True)
class FileSystem:
    mount: Path
    type: str

    @property
    def is_shared(self) -> bool:
        return SHARED.fullmatch(self.type) is not None

    @property
    def is_in_memory(self) -> bool:
        return IN_MEMORY.fullmatch(self.type) is not None

    @property
    def is_local_disk(self) -> bool:
        return LOCAL_DISK.fullmatch(self.type) is not None


def file_system_of(path: Path) -> FileSystem | None:
    """Of the deepest mount above it; of several on one point the last, which hides the others. None: not known."""
    try:
        lines = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return None
    where = path.resolve()
    found: FileSystem | None = None
    for _, mount, kind, *_ in lines:
        point = Path(_unescaped(mount))
        if where.is_relative_to(point) and (found is None or len(point.parts) >= len(found.mount.parts)):
            found = FileSystem(point, kind)
    return found


def is_exported(path: Path) -> bool:
    """This machine itself is the file server."""
    try:
        lines = EXPORTED.read_text().splitlines()
    except OSError:
        return False
    folders = [Path(_unescaped(line.split()[0])) for line in lines if line.strip()]
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def folder_of_each_machine(path: Path) -> Path | None:
    """Above the path."""
    where = path.resolve()
    return next((folder for folder in OF_EACH_MACHINE if where.is_relative_to(folder)), None)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the deepest folder above it that is there."""
    where = path.absolute()
    while not where.exists():
        where = where.parent
    return where


def _unescaped(text: str) -> str:
    r"""Blanks are written as \040 there."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), text)
