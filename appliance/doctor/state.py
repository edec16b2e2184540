"""The state directory: is it there, ours, private, and can it be written."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result, nearest

ID = "state_directory"


def check_state(patient: Patient, configuration: Configuration) -> Iterator[Result]:
    path = configuration.state_dir
    try:
        status = path.stat()
    except FileNotFoundError:
        yield _missing(path)
        return
    mode = stat.S_IMODE(status.st_mode)
    seen = f"{path}, owner {status.st_uid}, mode {mode:o}"
    if not stat.S_ISDIR(status.st_mode):
        yield Result(ID, "failure", f"{path} is no directory", "move it away, or set STATE_DIRECTORY to another path")
    elif status.st_uid != patient.uid:
        yield Result(ID, "failure", f"{seen}; the gateway runs as {patient.uid}", f"chown -R {patient.uid} {path}")
    elif mode & 0o077:
        yield Result(ID, "warning", f"{seen}: others may look into it", f"chmod 700 {path}")
    elif (reason := _why_not_writable(path)) is not None:
        remedy = "free space on its file system, mount it for writing, or set STATE_DIRECTORY to another path"
        yield Result(ID, "failure", f"{seen}; it cannot be written: {reason}", remedy)
    else:
        yield Result(ID, "ok", f"{seen}, writable")


def _missing(path: Path) -> Result:
    above = nearest(path)
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Result(ID, "ok", f"{path} is not there yet: the first start makes it")
    return Result(
        ID, "failure", f"{path} is not there, and {above} cannot be written", "make it, or set STATE_DIRECTORY"
    )


def _why_not_writable(path: Path) -> str | None:
    """A byte into a file without a name: it is gone when it is closed, whatever happens (open(2), O_TMPFILE)."""
    try:
        file = os.open(path, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EISDIR}:  # a file system, or a kernel, that has no such files
            return None if os.access(path, os.W_OK | os.X_OK) else "permission denied"
        return error.strerror
    try:
        os.write(file, b"x")
    except OSError as error:
        return error.strerror
    finally:
        os.close(file)
    return None
