"""Segments: the files of one record log, oldest first, and the lines in them. Blocking, and light: commands use it too.

`invocations.jsonl` is the one that grows; when it is full it becomes `invocations.<seq of its first record>.jsonl`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from appliance.storage.chain import BadRecord, read_record
from appliance.storage.private import open_to_read

MAX_LINE_BYTES = 64 * 1024 * 1024  # more than any tool returns; what a reader takes into memory at once
_SEQ_DIGITS = 12


class Position(NamedTuple):
    """A place in a log, ordered as its records are: the `seq` that a segment begins with, and bytes from its start."""

    segment: int
    offset: int


NOWHERE = Position(0, 0)
"""Before every record: segments begin with record 1."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed file of a log."""

    first_seq: int
    path: Path
    size: int


def closed_path(path: Path, first_seq: int) -> Path:
    """What the file at `path` is called once it is full."""
    return path.with_name(f"{path.stem}.{first_seq:0{_SEQ_DIGITS}}{path.suffix}")


def list_closed(path: Path) -> list[Segment]:
    """The closed segments of the log at `path`, oldest first. Raises OSError; a missing directory has none."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.([0-9]{{{_SEQ_DIGITS},}}){re.escape(path.suffix)}")
    found = []
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match is not None and entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append(Segment(int(match[1]), path.with_name(entry.name), size))
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda segment: segment.first_seq)


def open_segment(path: Path, first_seq: int) -> int:
    """Open the segment that begins with this record, wherever a writer moves it meanwhile. Raises OSError."""
    for candidate in (closed_path(path, first_seq), path):
        try:
            return open_to_read(candidate)
        except FileNotFoundError:
            continue
    return open_to_read(closed_path(path, first_seq))  # it was closed between the two looks


def iterate_lines(file: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Each line that ends before `end`, newline included, and its offset. A longer one than MAX_LINE_BYTES is passed over."""
    with open(file, "rb", closefd=False) as stream:
        stream.seek(start)
        offset = start
        whole = True
        while offset < end:
            line = stream.readline(min(MAX_LINE_BYTES, end - offset))
            if not line:
                return
            ends = line.endswith(b"\n")
            if ends and whole:
                yield offset, line
            whole = ends
            offset += len(line)


def read_first_seq(file: int, size: int) -> int | None:
    """The `seq` that an open segment begins with, told by its first good line. None: it has no good line."""
    for number, (_, line) in enumerate(iterate_lines(file, 0, size)):
        try:
            return read_record(line[:-1]).link.seq - number
        except BadRecord:
            continue
    return None


def find_end(path: Path) -> Position:
    """Where the log at `path` ends now, for those who do not write it; `Position(0, 0)` if it is not there."""
    try:
        file = open_to_read(path)
    except FileNotFoundError:
        size, first_seq = 0, None
    else:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            first_seq = read_first_seq(stream.fileno(), size)
    if first_seq is not None:
        return Position(first_seq, size)
    closed = list_closed(path)
    return Position(closed[-1].first_seq, closed[-1].size) if closed else NOWHERE
