"""Record files: one file for each record, `<id>.json`, chained as the lines of a journal are. Blocking, one call at a time."""

import contextlib
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

from appliance.protocol.canonical import canonical_json
from appliance.storage.atomic import Write, write_atomic
from appliance.storage.chain import GENESIS, BadRecord, Link, Record, read_record
from appliance.storage.private import open_to_read, sync_directory
from appliance.storage.record_parts import RECORD_ID, Entry, Sync, lock_log, probe_directory, sweep_temporaries

BLOCK_BYTES = 4096  # what a file takes on the disk is a multiple of this
OLDEST_FILES = 20_000  # known by name, so that the directory is not read again for every file that is removed
_NAME = re.compile(rf"{RECORD_ID.pattern}\.json")
_HEAD = ".records.head"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A record's file. `size`: bytes on the disk; `written_ns`: Unix time in nanoseconds."""

    written_ns: int
    name: str
    size: int


def list_files(directory: Path) -> Iterator[StoredFile]:
    """Every record's file, in no order. Raises OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                yield StoredFile(status.st_mtime_ns, entry.name, _size_on_disk(status.st_size))


def read_file(directory: Path, record_id: str) -> Record | None:
    """What is in a record's file. None: there is no such file, or it is damaged. Raises OSError."""
    name = f"{record_id}.json"
    if _NAME.fullmatch(name) is None:
        return None
    try:
        return load_file(directory / name)
    except (FileNotFoundError, NotADirectoryError, BadRecord):
        return None


def load_file(path: Path) -> Record:
    """Read a record's file. Raises OSError, BadRecord."""
    with open(open_to_read(path), "rb") as stream:
        return read_record(stream.read().removesuffix(b"\n"))


class RecordFiles:
    """The files in `directory`, the oldest removed beyond `total_max_bytes` (0: never).

    Which record was the last one is noted before it is written, so that a start need not look at every file.
    """

    def __init__(
        self, directory: Path, *, total_max_bytes: int, write: Write = os.write, sync: Sync = os.fdatasync
    ) -> None:
        self._directory = directory
        self._head_path = directory / _HEAD
        self._total_max_bytes = total_max_bytes
        self._write = write
        self._sync = sync
        self._lock = -1
        self._head = GENESIS
        self._unsynced: list[str] = []
        self._total = 0
        self._oldest: deque[StoredFile] = deque()
        self.files_removed = 0

    def open(self) -> Link:
        """Take the directory over, remove what a crash left half done, and say which record was the last one.

        Raises OSError, LogInUse.
        """
        self.close()
        self._lock = lock_log(self._head_path)
        sweep_temporaries(self._directory)
        self._head = self._find_head()
        if self._total_max_bytes > 0:
            self._take_stock()
            self._remove_oldest()
        return self._head

    def append(self, entries: Sequence[Entry], *, sync: bool) -> None:
        """Write all of them or none; with `sync` they survive a power cut. Raises OSError."""
        self._note_head(entries, durable=sync)
        try:
            for entry in entries:
                path = self._directory / f"{entry.record_id}.json"
                write_atomic(path, entry.line + b"\n", durable=sync, write=self._write)
                if not sync:
                    self._unsynced.append(path.name)
            if sync:
                self.sync()
        except OSError:
            self._take_back(entries)
            raise
        self._head = entries[-1].link
        self._total += sum(_size_on_disk(len(entry.line) + 1) for entry in entries)
        self._remove_oldest()

    def sync(self) -> None:
        """Make everything that was written survive a power cut. Raises OSError."""
        if not self._unsynced:
            return
        for name in self._unsynced:
            with contextlib.suppress(FileNotFoundError), open(open_to_read(self._directory / name), "rb") as stream:
                self._sync(stream.fileno())
        sync_directory(self._directory)
        self._unsynced.clear()

    def probe(self, size: int) -> None:
        """Find out whether so many bytes could be written. Raises OSError."""
        probe_directory(self._head_path, size, self._write)

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _note_head(self, entries: Sequence[Entry], *, durable: bool) -> None:
        note = {
            "before": [self._head.seq, self._head.hash],
            "records": [[entry.record_id, entry.link.seq, entry.link.hash] for entry in entries],
        }
        data = canonical_json(note).encode("ascii")
        write_atomic(self._head_path, data, durable=durable, write=self._write)

    def _find_head(self) -> Link:
        try:
            note = json.loads(self._head_path.read_bytes())
            head = Link(*note["before"])
            noted = [(record_id, Link(seq, digest)) for record_id, seq, digest in note["records"]]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return self._search_head()
        for record_id, link in noted:
            record = read_file(self._directory, record_id)
            if record is None or record.link != link:
                break
            head = link
        return head

    def _search_head(self) -> Link:
        """Without a note: the last one of all the files."""
        head = GENESIS
        for file in list_files(self._directory):
            record = read_file(self._directory, file.name.removesuffix(".json"))
            if record is not None and record.link.seq > head.seq:
                head = record.link
        return head

    def _take_back(self, entries: Sequence[Entry]) -> None:
        names = {f"{entry.record_id}.json" for entry in entries}
        self._unsynced = [name for name in self._unsynced if name not in names]
        for name in names:
            with contextlib.suppress(OSError):  # what stays was never acknowledged, and the next head is another one
                (self._directory / name).unlink(missing_ok=True)

    def _take_stock(self) -> None:
        self._total = 0
        self._oldest = deque(nsmallest(OLDEST_FILES, self._counted(), key=lambda file: file.written_ns))

    def _counted(self) -> Iterator[StoredFile]:
        for file in list_files(self._directory):
            self._total += file.size
            yield file

    def _remove_oldest(self) -> None:
        while 0 < self._total_max_bytes < self._total:
            if not self._oldest:
                self._take_stock()
            if not self._oldest:
                return
            file = self._oldest.popleft()
            with contextlib.suppress(OSError):  # it is found again when stock is taken
                (self._directory / file.name).unlink(missing_ok=True)
            self._total -= file.size
            self.files_removed += 1


def _size_on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
