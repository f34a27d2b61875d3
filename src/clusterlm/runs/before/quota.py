"""What is left of a quota on Lustre, where `lfs` tells: statvfs knows the whole file system alone there."""

from __future__ import annotations

import getpass
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 5.0
ROW = re.compile(
    r"(?P<kbytes>\d+)\*?\s+\d+\s+(?P<most_kbytes>\d+)\s+\S+\s+(?P<files>\d+)\*?\s+\d+\s+(?P<most_files>\d+)\s+\S+"
)
"""Used, soft limit, hard limit, grace: of KiB, then of files. `*`: above the soft limit; 0: no limit. A value that is
not certain, because a server is away, stands in brackets, and such a row is passed over. Source: `man lfs-quota`."""
PROJECT = re.compile(r"\s*(?P<id>[1-9]\d*)\s+P?\s")
"""'110255 P /projects/csc000'; 0 is no project."""


@dataclass(frozen=True)
class Quota:
    whose: str
    """In a sentence."""
    bytes_left: int | None
    """None: no limit."""
    files_left: int | None


def lustre_quota(folder: Path) -> Quota | None:
    """The folder's project's, else the user's; None where neither has one, or nothing is told."""
    found = PROJECT.match(_said("project", "-d", str(folder)))
    if found and (quota := quota_in(_said("quota", "-p", found["id"], str(folder)), "the project's")):
        return quota
    return quota_in(_said("quota", "-u", getpass.getuser(), str(folder)), "your")


def quota_in(said: str, whose: str) -> Quota | None:
    """What `lfs quota` prints, without -h."""
    row = ROW.search(said)
    if row is None:
        return None
    kbytes = _left(row["kbytes"], row["most_kbytes"])
    files = _left(row["files"], row["most_files"])
    if kbytes is None and files is None:
        return None
    return Quota(whose, None if kbytes is None else kbytes * 1024, files)


def _left(used: str, most: str) -> int | None:
    return max(0, int(most) - int(used)) if int(most) else None


def _said(*arguments: str) -> str:
    """ "" where there is no lfs, or it refuses."""
    try:
        done = subprocess.run(
            ["lfs", *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
