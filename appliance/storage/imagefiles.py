"""Image files: what the image store does to its directory. Blocking, each function one job for a thread."""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from appliance.protocol.magic import EXTENSION
from appliance.storage.atomic import Write, ensure_private_dir, is_temporary, write_atomic

Unsound = Literal["missing", "damaged"]
Condition = Literal["sound"] | Unsound

ORPHAN_AGE_S = 60.0  # a younger temporary file may belong to another process that is still writing it
_NAME = re.compile(rf"([0-9a-f]{{64}})\.(?:{'|'.join(EXTENSION.values())})")


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """Which names are gone now, and why the file could not be written (None: it is there, whole)."""

    removed: tuple[str, ...]
    error: OSError | None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A picture that an earlier process left: `used_at` is its last use in Unix seconds."""

    name: str
    size: int
    used_at: float


WriteFile = Callable[[Path, str, bytes, float, Sequence[str]], WriteOutcome]


def is_image_name(name: str) -> bool:
    """Say whether the store could have given this name: 64 lowercase hex digits and an extension it knows."""
    return _NAME.fullmatch(name) is not None


def write_file(
    directory: Path, name: str, data: bytes, now: float, victims: Sequence[str], *, write: Write = os.write
) -> WriteOutcome:
    """Remove the victims, then write one picture, used at `now`. Makes the directory again if somebody removed it."""
    removed = remove_files(directory, victims)
    try:
        ensure_private_dir(directory)
        # Not durable: after a power cut a picture may be missing or torn, then it is dropped, like an expired one.
        write_atomic(directory / name, data, durable=False, write=write)
    except OSError as error:
        return WriteOutcome(removed, error)
    _touch(directory / name, now)
    return WriteOutcome(removed, None)


def remove_files(directory: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Remove what can be removed and say which names are gone."""
    return tuple(name for name in names if _remove(directory / name))


def open_file(path: Path, used_at: float | None) -> FileIO | Unsound:
    """Open a picture whose content is what its name says; `used_at` (Unix seconds) becomes its last use on the disk.

    Raises OSError for what says nothing about the picture: EIO, EMFILE, ...
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "missing"
    stream = FileIO(file)
    try:
        unsound = _examine(stream, path.name)
    except BaseException:
        stream.close()
        raise
    if unsound is not None:
        stream.close()
        return unsound
    if used_at is not None:
        _touch(file, used_at)
    return stream


def size_of(stream: FileIO) -> int:
    """The size of an open file, in bytes."""
    return os.fstat(stream.fileno()).st_size


def touch_file(path: Path, size: int, used_at: float) -> bool:
    """Note a use on the disk. False: there is no file of this size any more."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        _touch(path, used_at)
    except OSError:
        return False
    return True


def drop_unsound_file(path: Path) -> Condition:
    """Look again, with nobody writing, and remove a picture that is not what its name says. Raises OSError."""
    opened = open_file(path, None)
    if not isinstance(opened, str):
        opened.close()
        return "sound"
    if opened == "damaged":
        path.unlink()
    return opened


def sweep_files(directory: Path, victims: Sequence[str], now: float) -> tuple[str, ...]:
    """Remove the victims and the orphans of crashed writers; say which of the victims are gone."""
    removed = remove_files(directory, victims)
    # A directory that somebody removed is made again by the next write.
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and _is_orphan(entry, now):
                _remove(Path(entry.path))
    return removed


def scan_files(directory: Path, now: float) -> tuple[FoundFile, ...]:
    """Make the directory, remove orphans, and list our pictures, least recently used first.

    Foreign names, links, and other users' files are left alone and not counted. Raises OSError, UnsafePath.
    """
    ensure_private_dir(directory)
    found: list[FoundFile] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and _is_orphan(entry, now):
                _remove(Path(entry.path))
            if is_image_name(entry.name):
                found.extend(_adopt(entry))
    return tuple(sorted(found, key=lambda file: file.used_at))


def _adopt(entry: os.DirEntry[str]) -> tuple[FoundFile, ...]:
    status = entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        return ()
    if stat.S_IMODE(status.st_mode) != 0o600:
        os.chmod(entry.path, 0o600)
    return (FoundFile(entry.name, status.st_size, status.st_mtime),)


def _is_orphan(entry: os.DirEntry[str], now: float) -> bool:
    try:
        age_s = now - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return False  # its writer finished in this moment
    return abs(age_s) > ORPHAN_AGE_S  # from the future: the clock was set back since


def _examine(stream: FileIO, name: str) -> Unsound | None:
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return "missing"
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    return None if name.startswith(digest) else "damaged"


def _touch(file: int | Path, used_at: float) -> None:
    try:
        os.utime(file, (used_at, used_at))
    except OSError:
        return  # a read-only disk still serves its pictures; memory knows the last use


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
