"""Files below the operator's roots, reached by directory descriptors: no link is followed, no race leads out.

A root is opened where a tool is run, by its configured path (whose own links are the operator's), so that a directory
which was replaced or mounted anew is the one that is used. Below it every part is opened relative to the one before,
and none may be a symbolic link. What somebody moves away meanwhile was below the root when it was opened. Hard links
cannot be told from files: reading one gives what the local user who made it could read (fs.protected_hardlinks), and
writing replaces the name and leaves the other link alone.

`openat2` would do the walk in one call, and needs ctypes; the parts of a path are few.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import trio

from appliance.storage.atomic import Write, write_atomic_at
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.paths import Place

NEW_FILE_MODE = 0o600
DISK_S = 30.0  # a disk that says nothing for this long is hung: the call ends, its thread does when the disk lets it

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)
_LINK = ("path_not_allowed", "A part of the path is no directory, or a symbolic link: links are not followed.")
_DENIED = ("permission_denied", "The gateway has no permission for that: the operator has to give it.")
_FULL = ("storage_full", "The disk is full: nothing was written. Make room, or write less.")
_NOT_A_FILE = ("not_a_file", "There is something that is no regular file: use another path.")
_FAILURES = {
    errno.ENOENT: ("not_found", "There is no such file or directory."),
    errno.ENOTDIR: _LINK,
    errno.ELOOP: _LINK,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EISDIR: _NOT_A_FILE,
    errno.ENXIO: _NOT_A_FILE,
    errno.ENAMETOOLONG: ("invalid_path", "The path is too long: use shorter names."),
}

T = TypeVar("T")


class Turn:
    """Which comes first: the moment a write becomes visible, or its being given up. For two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether this is the first time."""
        return self._lock.acquire(blocking=False)


class GivenUp(Exception):
    """Nobody waits for this write any more."""


def read_start(place: Place, max_bytes: int) -> tuple[bytes, bool]:
    """The file's first `max_bytes`, and whether it has more. Blocks. Raises ToolFailed."""
    with _told(), _parent(place) as parent:
        file = _open_regular(parent, place.parts[-1], os.O_RDONLY)
        try:
            # As long as the file says it is: those of /proc, this process's environment among them, say 0.
            size = os.fstat(file).st_size
            return _read(file, min(size, max_bytes)), size > max_bytes
        finally:
            os.close(file)


def replace_file(place: Place, data: bytes, turn: Turn, write: Write = os.write) -> bool:
    """Make the file whole and durable; say whether there was one before, whose permission bits it keeps.

    Its directory must be there. Does nothing if the turn was taken before the new content could show. Blocks. Raises
    ToolFailed; the old file is as it was then, and no other is left (only a failing fsync of the directory comes too late
    for that).
    """

    def take_turn() -> None:
        if not turn.take():
            raise GivenUp

    with _told(), _parent(place) as parent:
        mode = _mode(parent, place.parts[-1])
        directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        try:
            write_atomic_at(
                directory,
                place.parts[-1],
                data,
                mode=NEW_FILE_MODE if mode is None else mode,
                durable=True,
                write=write,
                before_rename=take_turn,
            )
        finally:
            os.close(directory)
    return mode is not None


async def run_file_work(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T | None:
    """Run blocking work in a thread of the limiter's; None when the disk hangs, or no thread gets free.

    Work that is cancelled or late is abandoned: it ends by itself and gives its thread back then.
    """
    with trio.move_on_after(DISK_S):
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    return None


@contextmanager
def _parent(place: Place) -> Iterator[int]:
    """The directory that holds the file, as a descriptor that can be searched and nothing else."""
    try:
        directory = os.open(place.root, _DIRECTORY)
    except OSError:
        raise ToolFailed("root_unavailable", "The directory for files cannot be opened: tell the operator.") from None
    try:
        for name in place.parts[:-1]:
            inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def _open_regular(parent: int, name: str, flags: int) -> int:
    """Look before opening: to open a device may do something. Look again: it may have been exchanged meanwhile."""
    _check_regular(os.stat(name, dir_fd=parent, follow_symlinks=False))
    file = os.open(name, flags | _BELOW, dir_fd=parent)
    try:
        _check_regular(os.fstat(file))
    except BaseException:
        os.close(file)
        raise
    return file


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    words = next((words for is_kind, words in _KINDS if is_kind(status.st_mode)), "no file")
    raise ToolFailed("not_a_file", f"There is {words}, no regular file: use another path.")


def _mode(parent: int, name: str) -> int | None:
    """The permission bits of the file that will be replaced, which must be one that may be written; None: no file."""
    with suppress(FileNotFoundError):
        file = _open_regular(parent, name, os.O_WRONLY)
        try:
            return stat.S_IMODE(os.fstat(file).st_mode) & 0o777
        finally:
            os.close(file)
    return None


def _read(file: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := os.read(file, size - len(data))):
        data += piece
    return bytes(data)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind, message = _FAILURES.get(
            error.errno or 0, ("io_error", "The disk failed: tell the operator, or try another path.")
        )
        raise ToolFailed(kind, message) from None
