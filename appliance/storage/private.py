"""Private: files of mode 0600, opened so that no link, pipe or device is ever followed, filled or waited for. Blocking."""

import os
import stat
from pathlib import Path


def open_to_append(path: Path) -> int:
    """Open or make a file to append to and to read; mode 0600, its directory 0700 when that is made. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, flags, 0o600)
    return _checked(file, path, make_private=True)


def open_to_read(path: Path) -> int:
    """Open a regular file to read. Raises OSError; FileNotFoundError when it is not there."""
    return _checked(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), path, make_private=False)


def sync_directory(path: Path) -> None:
    """Make new, renamed and removed names in a directory survive a power cut. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _checked(file: int, path: Path, *, make_private: bool) -> int:
    try:
        _check(file, path, make_private=make_private)
    except BaseException:
        os.close(file)
        raise
    return file


def _check(file: int, path: Path, *, make_private: bool) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    if make_private and stat.S_IMODE(status.st_mode) != 0o600:
        os.fchmod(file, 0o600)
