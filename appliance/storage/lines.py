"""Lines: append whole lines to a file that is turned over when it is full. Blocking, one call a batch."""

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.storage.atomic import Write, write_all
from appliance.storage.private import open_to_append


@dataclass(frozen=True, slots=True)
class Appended:
    """What was found and done on the way: a torn last line completed, a full file set aside."""

    torn_tail: bool
    turned_over: bool


def append_lines(path: Path, data: bytes, max_bytes: int, write: Write = os.write) -> Appended:
    """Append complete lines, all or none of them; mode 0600.

    A last line that a crash tore is completed by a newline, so that it spoils no other. A file that would grow over
    `max_bytes` (0: no limit) is renamed to `<name>.1`, in place of the one before. Raises OSError.

    The file is opened for every batch (20 us): a file that somebody moved or removed is simply begun anew.
    """
    file = open_to_append(path)
    try:
        turned_over = False
        size = os.fstat(file).st_size
        if 0 < max_bytes < size + len(data) and size > 0:
            os.rename(path, path.with_name(f"{path.name}.1"))
            os.close(file)
            file = -1
            file = open_to_append(path)
            size, turned_over = 0, True
        torn_tail = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        _append(file, b"\n" + data if torn_tail else data, size, write)
    finally:
        if file >= 0:
            os.close(file)
    return Appended(torn_tail, turned_over)


def _append(file: int, data: bytes, size: int, write: Write) -> None:
    try:
        write_all(file, data, write)
    except OSError:
        os.ftruncate(file, size)  # the batch is written again later: what got in now would be there twice
        raise
