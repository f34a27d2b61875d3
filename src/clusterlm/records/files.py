"""Files on disk that survive a crash: written whole or not at all, and errors of the disk in words."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from clusterlm.errors import RunError

Written = TypeVar("Written")

NO_ROOM = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "no space left: your quota is used up",
    errno.EFBIG: "no space left: the file reached the size limit of the disk or of your shell (ulimit -f)",
    errno.EIO: "the disk reports an input/output error",
}


def disk_problem(error: OSError) -> str:
    """What the operating system refused, in words that say what to mend."""
    return NO_ROOM.get(error.errno or 0) or f"the disk refuses: {error.strerror or error}"


def write_whole(path: Path, writer: Callable[[BinaryIO], Written]) -> Written:
    """The file as `writer` writes it, or, where anything fails, the file as it was; RunError when the disk refuses.

    Readers see the old file or the new one, never a part; after return the new one survives a power cut.
    """
    target = path.resolve()  # a link keeps pointing to its file, which gets the new content
    partial = target.with_name(f".clusterlm-{secrets.token_hex(4)}.partial")
    try:
        written = _write_and_sync(partial, writer)
        partial.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        # Ctrl-C too must leave no half file behind.
        _remove(partial)
        if isinstance(error, OSError):
            hint = "free space or name another place, then run the same command again"
            raise RunError(disk_problem(error), where=str(path), hint=hint) from error
        raise
    return written


def _write_and_sync(partial: Path, writer: Callable[[BinaryIO], Written]) -> Written:
    # 0o666 less the umask: the rights that every other file of the user has, which tempfile would narrow to 0600.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:
        written = writer(file)
        file.flush()
        os.fsync(descriptor)
    return written


def _remove(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        return  # the first problem is the one to report


def sync_file(path: Path) -> None:
    """Makes what another program wrote into it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes a new or renamed file's name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """All of `content` at the descriptor's position: one os.write may take only a part."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
