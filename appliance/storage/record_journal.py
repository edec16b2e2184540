"""Record journal: the segments of one log as their only writer sees them. Blocking, one call at a time."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from appliance.storage.atomic import Write, write_all
from appliance.storage.chain import GENESIS, Link
from appliance.storage.private import open_to_append, sync_directory
from appliance.storage.record_parts import Entry, Sync, lock_log, probe_directory, sweep_temporaries
from appliance.storage.segments import Position, Segment, closed_path, list_closed, read_first_seq
from appliance.storage.tail import find_last_good, set_aside

SEGMENTS_OF_TOTAL = 4  # a segment is at most this part of the cap, so that removing the oldest keeps most records


class RecordJournal:
    """The log at `path`: closed at `max_bytes` (0: never), the oldest segments removed beyond `total_max_bytes`
    (0: never), so that the cap holds at any time. A batch that is larger than a segment is written whole.

    A file that somebody moved away is begun anew, and the chain goes on.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        total_max_bytes: int,
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> None:
        limits = (max_bytes, total_max_bytes // SEGMENTS_OF_TOTAL)
        self._path = path
        self._max_bytes = min((limit for limit in limits if limit > 0), default=0)
        self._total_max_bytes = total_max_bytes
        self._write = write
        self._sync = sync
        self._lock = -1
        self._file = -1
        self._identity: tuple[int, int] | None = None
        self._end = Position(1, 0)
        self._next_seq = 1
        self._before = self._end, self._next_seq
        self._closed: list[Segment] = []
        self._half_written = False
        self.torn_tails = 0
        self.segments_removed = 0

    @property
    def end(self) -> Position:
        """Where the last record ends."""
        return self._end

    @property
    def oldest_segment(self) -> int:
        """The `seq` of the first record that is still there."""
        return self._closed[0].first_seq if self._closed else self._end.segment

    def open(self) -> Link:
        """Take the log over, set aside what a crash tore, and say which record was the last one.

        Raises OSError, LogInUse.
        """
        self.close()
        self._lock = lock_log(self._path)
        sweep_temporaries(self._path.parent, f".{self._path.name}.")
        self._closed = list_closed(self._path)
        self._open_file()
        head = self._repair(self._file) or self._repair_closed() or GENESIS
        self._next_seq = head.seq + 1
        size = os.fstat(self._file).st_size
        self._end = Position(read_first_seq(self._file, size) or self._next_seq, size)
        self._remove_oldest()
        return head

    def append(self, entries: Sequence[Entry], *, sync: bool) -> None:
        """Write all of them or none; with `sync` they survive a power cut. Raises OSError."""
        self._make_ready()
        data = b"\n".join([entry.line for entry in entries] + [b""])
        if 0 < self._max_bytes < self._end.offset + len(data) and self._end.offset > 0:
            self._turn_over()
        self._before = self._end, self._next_seq
        try:
            write_all(self._file, data, self._write)
            if sync:
                self._sync(self._file)
        except OSError:
            self._half_written = True
            with contextlib.suppress(OSError):  # the next one tries again, before it writes
                self._truncate()
            raise
        self._end = Position(self._end.segment, self._end.offset + len(data))
        self._next_seq = entries[-1].link.seq + 1

    def take_back(self) -> None:
        """Undo the last `append`. Raises OSError; the next call that writes tries it again then."""
        self._end, self._next_seq = self._before
        self._half_written = True
        self._truncate()

    def sync(self) -> None:
        """Make everything that was written survive a power cut. Raises OSError."""
        if self._file >= 0:
            self._sync(self._file)

    def probe(self, size: int) -> None:
        """Find out whether so many bytes could be written. Raises OSError."""
        self._make_ready()
        probe_directory(self._path, size, self._write)

    def close(self) -> None:
        """Let go of every file."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _make_ready(self) -> None:
        if self._file >= 0 and not self._is_in_place():
            self._close_file()
        if self._file < 0:
            self._open_file()
            if os.fstat(self._file).st_size > 0:
                self._close_file()
                raise FileExistsError(f"{self._path} was replaced by another file: move that away")
            self._end = Position(self._next_seq, 0)
        if self._half_written:
            self._truncate()

    def _is_in_place(self) -> bool:
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _open_file(self) -> None:
        self._file = open_to_append(self._path)
        status = os.fstat(self._file)
        self._identity = (status.st_dev, status.st_ino)
        self._half_written = False
        sync_directory(self._path.parent)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _truncate(self) -> None:
        os.ftruncate(self._file, self._end.offset)
        self._half_written = False

    def _repair_closed(self) -> Link | None:
        """The active file is empty: the chain goes on from the newest closed one."""
        while self._closed:
            file = open_to_append(self._closed[-1].path)
            try:
                head = self._repair(file)
            finally:
                os.close(file)
            if head is not None:
                return head
            self._closed.pop().path.unlink()
        return None

    def _repair(self, file: int) -> Link | None:
        size = os.fstat(file).st_size
        end, record = find_last_good(file, size)
        if end < size:
            set_aside(file, end, size, self._path.with_name(f"{self._path.name}.torn"))
            self.torn_tails += 1
        return record.link if record else None

    def _turn_over(self) -> None:
        target = closed_path(self._path, self._end.segment)
        if target.exists():
            raise FileExistsError(f"{target} is in the way: move it away")
        self._sync(self._file)
        os.rename(self._path, target)
        self._closed.append(Segment(self._end.segment, target, self._end.offset))
        self._close_file()
        self._end = Position(self._next_seq, 0)
        self._open_file()
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        if self._total_max_bytes <= 0:
            return
        while self._closed and sum(s.size for s in self._closed) + self._max_bytes > self._total_max_bytes:
            try:
                self._closed[0].path.unlink(missing_ok=True)
            except OSError:
                return  # it is tried again when the next segment is closed
            self._closed.pop(0)
            self.segments_removed += 1
