"""Record scan: which record a line is, and where a record lies when no index says so. Blocking, and light.

A record's id stands in one field of its line, and may stand in others too: whoever asks can send what looks like one.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.storage.chain import BadRecord, read_record
from appliance.storage.private import open_to_read
from appliance.storage.record_files import read_file
from appliance.storage.segments import (
    NOWHERE,
    Position,
    closed_path,
    find_end,
    iterate_lines,
    list_closed,
    open_segment,
)


@dataclass(frozen=True, slots=True)
class IdReader:
    """Tells the id of a line by the name of the field that holds it."""

    field: str

    @property
    def key(self) -> bytes:
        return b'"%b":"' % self.field.encode("ascii")

    def read_id(self, line: bytes) -> str | None:
        """The id of a line. None: it is no record. The hash of the line is not looked at."""
        # Within a text quotes are escaped, so the key seen once is the record's own; twice: an argument looks like it.
        start = line.find(self.key)
        if start < 0:
            return None
        if line.find(self.key, start + 1) < 0:
            start += len(self.key)
            return line[start : line.find(b'"', start)].decode("ascii", "replace")
        try:
            record_id = json.loads(line)[self.field]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return record_id if isinstance(record_id, str) else None

    def find_line(self, lines: Iterator[tuple[Position, bytes]], record_id: str) -> bytes | None:
        """The line, without its newline, that has this id."""
        needle = self.key + record_id.encode("ascii", "replace") + b'"'
        for _, line in lines:
            if needle in line and self.read_id(line) == record_id:
                return line[:-1]
        return None


def iterate_log(path: Path, start: Position, end: Position) -> Iterator[tuple[Position, bytes]]:
    """Every line of the log at `path` from `start` to `end`, and where it begins. Raises OSError.

    Segments that are removed meanwhile are passed over.
    """
    closed = [segment.first_seq for segment in list_closed(path)]
    for first_seq in (*(seq for seq in closed if start.segment <= seq < end.segment), end.segment):
        last = first_seq == end.segment
        try:
            file = open_segment(path, first_seq) if last else open_to_read(closed_path(path, first_seq))
        except FileNotFoundError:
            continue
        try:
            begin = start.offset if first_seq == start.segment else 0
            stop = end.offset if last else os.fstat(file).st_size
            for offset, line in iterate_lines(file, begin, stop):
                yield Position(first_seq, offset), line
        finally:
            os.close(file)


def find_stored(path: Path, directory: Path, id_field: str, record_id: str) -> bytes | None:
    """The line of a record, without its newline, for those who do not write the log: all of it is read.

    None: there is none, or it is damaged. Raises OSError.
    """
    line = IdReader(id_field).find_line(iterate_log(path, NOWHERE, find_end(path)), record_id)
    if line is None:
        record = read_file(directory, record_id)
        return record.line if record else None
    try:
        return read_record(line).line
    except BadRecord:
        return None
