"""Record parts: what those who write sealed records to the disk have in common. Blocking, one call at a time."""

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.storage.atomic import Write, is_temporary, write_all
from appliance.storage.chain import Link
from appliance.storage.private import open_to_append

RECORD_ID = re.compile(r"[a-z]+-[0-9a-f]{24}")
"""What a record may be called: it is a file name too."""

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
