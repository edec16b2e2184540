"""Atomic: files that are there whole or not at all, in directories that are ours alone.

Everything here blocks: callers run it in threads, by a named limiter.
"""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

Write = Callable[[int, memoryview], int]
"""What puts bytes into an open file and says how many: `os.write`, or a test's full disk."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_TEMPORARY_CHARS = 32  # of the name that a temporary one begins with; 255 bytes are the most a name can have


def _nothing() -> None:
    return


class UnsafePath(OSError):
    """A path that somebody else controls, or could: the message says what to change."""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool, write: Write = os.write) -> None:
    """Put `data` under `path`, replacing what is there: other processes see the old content or the new, whole.

    Durable: it also survives a power cut once this returns. Raises OSError as the system gave it (ENOSPC, EDQUOT,
    EROFS, EIO, ...); no temporary file is left then, and `path` is as it was (only a failing fsync of the directory
    comes too late for that: the new content is in place, its name may not survive a power cut).
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        write_atomic_at(directory, path.name, data, mode=mode, durable=durable, write=write)
    finally:
        os.close(directory)


def write_atomic_at(
    directory: int,
    name: str,
    data: bytes,
    *,
    mode: int,
    durable: bool,
    write: Write = os.write,
    before_rename: Callable[[], None] = _nothing,
) -> None:
    """As `write_atomic`, below an open directory, which stays open and needs to be readable for `durable`.

    What `before_rename` raises stops it: then nothing was written.
    """
    temporary = f".{name[:_TEMPORARY_CHARS]}.{secrets.token_hex(8)}.tmp"
    try:
        _write_new(temporary, data, mode=mode, directory=directory, durable=durable, write=write)
        before_rename()
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        _unlink_if_there(temporary, directory)
        raise
    if durable:
        os.fsync(directory)


def is_temporary(name: str) -> bool:
    """Say whether this is the name of a file that `write_atomic` had not finished: after a crash, an orphan."""
    return _TEMPORARY.fullmatch(name) is not None


def write_all(file: int, data: bytes, write: Write = os.write) -> None:
    """Write every byte. Raises OSError; some bytes may be in the file then."""
    rest = memoryview(data)
    while rest:
        rest = rest[write(file, rest) :]


def ensure_private_dir(path: Path) -> None:
    """Make `path` a directory of mode 0700 that is ours, with its parents.

    Raises UnsafePath for a symbolic link, for what is no directory and for somebody else's; OSError when it cannot be
    made. One link is followed: root's own, which is how systemd's DynamicUser= gives a service its StateDirectory=.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) and status.st_uid == 0 != os.geteuid():
        status = path.stat()
    if stat.S_ISLNK(status.st_mode):
        raise UnsafePath(f"{path} is a symbolic link: configure the directory that it points to.")
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafePath(f"{path} is not a directory: move it away, or configure another path.")
    if status.st_uid != os.geteuid():
        raise UnsafePath(f"{path} belongs to another user (uid {status.st_uid}): chown it, or configure another path.")
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)


def _write_new(name: str, data: bytes, *, mode: int, directory: int, durable: bool, write: Write) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, mode, dir_fd=directory)
    try:
        os.fchmod(file, mode)  # whatever the umask says
        write_all(file, data, write)
        if durable:
            os.fsync(file)
    finally:
        os.close(file)  # may raise too: some file systems find out here that the disk is full


def _unlink_if_there(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        return  # never made, or the disk is gone: a sweep takes it later, and the first error is the one to report
