"""Tail: what a crash left behind the last good record is set aside, so that the chain goes on after it. Blocking."""

import os
from pathlib import Path

from appliance.storage.atomic import write_all
from appliance.storage.chain import BadRecord, Record, read_record
from appliance.storage.private import open_to_append
from appliance.storage.segments import MAX_LINE_BYTES

_BLOCK_BYTES = 65_536


def find_last_good(file: int, size: int) -> tuple[int, Record | None]:
    """Where the last good record ends, and the record; 0 and None when there is none. Raises OSError.

    Usually that is the very last line. A power cut can leave more: lines whose blocks never reached the disk.
    """
    end = size
    while end > 0:
        record = _read_record_before(file, end)
        if record is not None:
            return end, record
        end = _find_line_start(file, end - 1)
    return 0, None


def set_aside(file: int, start: int, size: int, path: Path) -> None:
    """Move what lies behind `start` to the end of the file at `path`, as lines of its own. Raises OSError."""
    aside = open_to_append(path)
    try:
        for offset in range(start, size, _BLOCK_BYTES):
            block = os.pread(file, min(_BLOCK_BYTES, size - offset), offset)
            write_all(aside, block)
        if size > start and os.pread(file, 1, size - 1) != b"\n":
            write_all(aside, b"\n")
        os.fsync(aside)
    finally:
        os.close(aside)
    os.ftruncate(file, start)
    os.fdatasync(file)


def _find_line_start(file: int, end: int) -> int:
    """The offset behind the last newline before `end`."""
    block = 4096  # most lines are shorter
    while end > 0:
        begin = max(0, end - block)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end, block = begin, _BLOCK_BYTES
    return 0


def read_line_before(file: int, end: int) -> bytes:
    """The line, newline included, that ends at `end`; empty when none does, or one too long for a record."""
    start = _find_line_start(file, end - 1)
    if end - start > MAX_LINE_BYTES:
        return b""
    line = os.pread(file, end - start, start)
    return line if len(line) == end - start and line.endswith(b"\n") else b""


def _read_record_before(file: int, end: int) -> Record | None:
    try:
        return read_record(read_line_before(file, end)[:-1])
    except BadRecord:
        return None
