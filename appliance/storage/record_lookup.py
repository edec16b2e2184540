"""Record lookup: where a record is, said without reading the whole log."""

from collections.abc import Sequence
from pathlib import Path

import trio

from appliance.storage.record_scan import IdReader, iterate_log
from appliance.storage.record_sink import Entry
from appliance.storage.segments import Position

RECENT_BYTES = 4_194_304


class RecordLookup:
    """Keeps the newest records in memory; the others are looked for on the disk."""

    def __init__(self, path: Path, *, id_field: str, limiter: trio.CapacityLimiter) -> None:
        self._path = path
        self._ids = IdReader(id_field)
        self._limiter = limiter
        self._recent: dict[str, bytes] = {}
        self._recent_bytes = 0

    def note(self, entries: Sequence[Entry], end: Position) -> None:
        """These are stored now, and the log ends here."""
        for entry in entries:
            self._recent[entry.record_id] = entry.line
            self._recent_bytes += len(entry.line)
        while self._recent_bytes > RECENT_BYTES:
            oldest = next(iter(self._recent))
            self._recent_bytes -= len(self._recent.pop(oldest))

    async def read(self, record_id: str, end: Position) -> bytes | None:
        """The line of a record, without its newline. Raises OSError."""
        recent = self._recent.get(record_id)
        if recent is not None:
            return recent

        def scan() -> bytes | None:
            return self._ids.find_line(iterate_log(self._path, Position(0, 0), end), record_id)

        return await trio.to_thread.run_sync(scan, limiter=self._limiter, abandon_on_cancel=True)
