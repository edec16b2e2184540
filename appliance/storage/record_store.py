"""Record store: where sealed records are written, by mode: a journal, a file each, or both. Blocking, one call at a time."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from appliance.storage.atomic import Write
from appliance.storage.chain import Link
from appliance.storage.record_files import RecordFiles
from appliance.storage.record_journal import RecordJournal
from appliance.storage.record_parts import Entry, Sync
from appliance.storage.segments import NOWHERE, Position, find_end

RecordMode = Literal["ndjson", "per_invocation", "both"]


class RecordStore:
    """`path`: the journal; `directory`: the files. Of `total_max_bytes` each has half when there are both.

    What another mode wrote before stays where it is, and is still found.
    """

    def __init__(
        self,
        path: Path,
        directory: Path,
        mode: RecordMode,
        *,
        max_bytes: int,
        total_max_bytes: int,
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> None:
        share = total_max_bytes // 2 if mode == "both" else total_max_bytes
        self._path = path
        self._journal = self._files = None
        if mode != "per_invocation":
            self._journal = RecordJournal(path, max_bytes=max_bytes, total_max_bytes=share, write=write, sync=sync)
        if mode != "ndjson":
            self._files = RecordFiles(directory, total_max_bytes=share, write=write, sync=sync)
        self._old_end = NOWHERE

    @property
    def end(self) -> Position:
        """Where the journal ends."""
        return self._journal.end if self._journal else self._old_end

    @property
    def oldest_segment(self) -> int:
        """The `seq` of the first record that the journal still has."""
        return self._journal.oldest_segment if self._journal else 0

    @property
    def torn_tails(self) -> int:
        """How often something torn was found behind the last record, and set aside."""
        return self._journal.torn_tails if self._journal else 0

    @property
    def removed(self) -> int:
        """How many segments and files were removed for the cap's sake."""
        journal = self._journal.segments_removed if self._journal else 0
        return journal + (self._files.files_removed if self._files else 0)

    def open(self) -> Link:
        """Get ready to write, and say which record was the last one. Begins anew when called again. Raises OSError."""
        if self._journal is None:
            self._old_end = find_end(self._path)
        return max((part.open() for part in self._parts()), key=lambda link: link.seq)

    def append(self, entries: Sequence[Entry], *, sync: bool) -> None:
        """Write all of them or none; with `sync` they survive a power cut. Raises OSError."""
        if self._journal is not None:
            self._journal.append(entries, sync=sync)
        if self._files is not None:
            try:
                self._files.append(entries, sync=sync)
            except OSError:
                if self._journal is not None:
                    self._journal.take_back()
                raise

    def sync(self) -> None:
        """Make everything that was written survive a power cut. Raises OSError."""
        for part in self._parts():
            part.sync()

    def probe(self, size: int) -> None:
        """Find out whether so many bytes could be written, and leave none. Raises OSError."""
        for part in self._parts():
            part.probe(size)

    def close(self) -> None:
        """Let go of every file."""
        for part in self._parts():
            part.close()

    def _parts(self) -> tuple[RecordJournal | RecordFiles, ...]:
        return tuple(part for part in (self._journal, self._files) if part is not None)
