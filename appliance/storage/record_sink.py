"""Record sink: what the places that take sealed records have in common. Blocking, one call at a time."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.storage.atomic import Write, is_temporary, write_all
from appliance.storage.chain import Link
from appliance.storage.private import open_to_append

Sync = Callable[[int], None]
"""What makes an open file's content survive a power cut: `os.fdatasync`, or a test's disk."""


class LogInUse(OSError):
    """Another process writes this log."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sealed record on its way to the disk: a line without its newline."""

    record_id: str
    line: bytes
    link: Link


class RecordSink(Protocol):
    """Where sealed records go. Every method blocks, and raises OSError when the disk does not do what it should."""

    def open(self) -> Link:
        """Get ready to write, and say which record was the last one. Begins anew when called again."""

    def append(self, entries: Sequence[Entry], *, sync: bool) -> None:
        """Write all of them or none; with `sync` they survive a power cut."""

    def take_back(self) -> None:
        """Undo the last `append`."""

    def sync(self) -> None:
        """Make everything that was written survive a power cut."""

    def probe(self, size: int) -> None:
        """Find out whether so many bytes could be written, and leave none."""

    def close(self) -> None:
        """Let go of every file. Raises nothing."""


def lock_log(path: Path) -> int:
    """Become the one process that writes the log at `path`, until the file is closed. Raises LogInUse, OSError."""
    file = open_to_append(path.with_name(f".{path.name}.lock"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise LogInUse(f"another process writes {path}") from None
    except BaseException:
        os.close(file)
        raise
    return file


def probe_directory(path: Path, size: int, write: Write) -> None:
    """Write and sync `size` bytes beside the file at `path`, and remove them again. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, bytes(size), write)
        os.fsync(file)  # some disks find out here that they are full
    finally:
        os.close(file)
        temporary.unlink(missing_ok=True)


def sweep_temporaries(directory: Path, prefix: str = ".") -> None:
    """Remove what a crash left of files that were never finished. The caller holds the log's lock."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and is_temporary(entry.name):
                os.unlink(entry.path)
