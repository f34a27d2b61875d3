"""Where a lab can be: a folder that munged accepts, an index that no other lab has, one start at a time."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusterlm.errors import SlurmError, UsageError
from clusterlm.slurm.lab.layout import FIRST_PORT, MOST_LABS, PORTS_OF_A_LAB

LISTENING = "0A"
"""A state in /proc/net/tcp."""
MOST_LETTERS = 70
"""Of the folder's path: a socket's path has at most 107, with what comes below the folder."""


def default_folder() -> Path:
    """In the user's home, or in /tmp where the home is closed to others: munged wants every folder above it open."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    folder = state / "clusterlm" / "lab"
    if closed_folder(folder) is None and len(str(folder)) <= MOST_LETTERS:
        return folder
    return Path(tempfile.gettempdir()) / f"clusterlm-lab-{os.getuid()}"


def closed_folder(folder: Path) -> str | None:
    """What is wrong with a folder above, or with this one: not open to all, or open for others to write."""
    for above in (folder, *folder.parents):
        if not above.exists():
            continue
        mode = above.stat().st_mode
        if not mode & stat.S_IXOTH:
            return f"{above} is closed to other users"
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            return f"others may write to {above}"
    return None


def make_folder(folder: Path) -> None:
    """UsageError where munged would not work below it, or where it is not the user's own."""
    where = f"--folder {folder}"
    if problem := closed_folder(folder):
        raise UsageError(
            f"{problem}, and munged then refuses to start", where=where, hint="another --folder, as in /tmp"
        )
    if len(str(folder)) > MOST_LETTERS:
        problem = f"a path of {len(str(folder))} letters leaves no room for the names of sockets"
        raise UsageError(problem, where=where, hint=f"a --folder of {MOST_LETTERS} letters at most")
    if set(str(folder)) & set(" \t\n#\"'\\,=[]%"):
        problem = "slurm.conf cannot name a folder with blanks, quotes or any of # , = [ ] % \\"
        raise UsageError(problem, where=where, hint="another --folder")
    try:
        _make_open(folder)
    except OSError as reason:
        raise UsageError(f"cannot be made: {reason.strerror}", where=where) from None
    if folder.stat().st_uid != os.getuid():
        raise UsageError("it belongs to another user", where=where, hint="another --folder")


def _make_open(folder: Path) -> None:
    """Whatever the user's umask is."""
    if not folder.exists():
        _make_open(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def free_index() -> int:
    """Of a lab that meets no other one. SlurmError where there are too many."""
    taken = _listening_ports()
    for index in range(MOST_LABS):
        first = FIRST_PORT + PORTS_OF_A_LAB * index
        used = taken & set(range(first, first + PORTS_OF_A_LAB))
        if not used and not Path(f"/sys/class/net/clusterlm{index}").exists():
            return index
    raise SlurmError(f"there are {MOST_LABS} labs on this machine already", hint="stop some: clusterlm lab stop")


def loopback_of_this_machine() -> str:
    """The address that its name stands for. SlurmError where that is not its own alone: daemons would listen there."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = "nothing"
    if address == "nothing" or not ipaddress.ip_address(address).is_loopback:
        problem = f"this machine's name, {name}, stands for {address}: the lab's daemons would be open to the network"
        hint = f"put the line '127.0.1.1 {name}' first into /etc/hosts; root of a whole machine needs none of this"
        raise SlurmError(problem, hint=hint)
    return address


@contextmanager
def one_start_at_a_time() -> Iterator[None]:
    """Two that start together would take the same index."""
    path = Path(tempfile.gettempdir()) / f".clusterlm-lab-{os.getuid()}.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise SlurmError(f"cannot be opened: {problem.strerror}", where=str(path)) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _listening_ports() -> set[int]:
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if Path(table).exists():
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING}
    return ports
