"""Record lookup: the line of a record, found as quickly among a million as among a thousand.

The newest records are in memory until the index has them; while the index is behind, the log itself is read.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from appliance.storage.chain import BadRecord, read_record
from appliance.storage.private import open_to_read
from appliance.storage.record_files import read_file
from appliance.storage.record_index import IndexDamaged, Place, RecordIndex
from appliance.storage.record_parts import Entry
from appliance.storage.record_scan import IdReader, iterate_log
from appliance.storage.segments import NOWHERE, Position, closed_path, open_segment
from appliance.telemetry.log import Log

T = TypeVar("T")

RECENT_RECORDS = 256  # then the index is told: a transaction costs as much as 30 of its rows
RECENT_BYTES = 1_048_576
RECENT_MAX_BYTES = 8_388_608  # what an index that fails may cost in memory
STEP_RECORDS = 20_000  # 0.25 s of a thread, 4 MB


class _IndexIsStale(Exception):
    """The index says of a record that it lies where another one is."""


class _RecordIsDamaged(Exception):
    """Its bytes do not match its hash."""


@dataclass(frozen=True, slots=True)
class _Recent:
    """A record that the index may not have yet. `end`: the log reached up to here when it was stored."""

    line: bytes
    end: Position


class RecordLookup:
    """Looks records up by id. The index is a file beside the log, used by one thread at a time.

    `patience_s`: how long a look-up waits for an index that is behind, before it reads the log. `boot_id`: see
    RecordIndex.
    """

    def __init__(
        self,
        path: Path,
        directory: Path,
        *,
        id_field: str,
        log: Log,
        boot_id: Callable[[], str],
        interval_s: float = 1.0,
        retry_interval_s: float = 5.0,
        patience_s: float = 2.0,
    ) -> None:
        self._path = path
        self._directory = directory
        self._ids = IdReader(id_field)
        self._index = RecordIndex(path.with_name(f"{path.name}.index"), path, self._ids, boot_id)
        self._log = log
        self._interval_s = interval_s
        self._retry_interval_s = retry_interval_s
        self._patience_s = patience_s
        self._thread = trio.CapacityLimiter(1)
        self._recent: dict[str, _Recent] = {}
        self._recent_bytes = 0
        self._end = self._covered = NOWHERE  # from `_covered` on, what is not in the index is in `_recent`
        self._oldest_segment = 0
        self._wanted, self._urgent = trio.Event(), trio.Event()
        self._settled = trio.Event()  # the index has everything, or fails: no use waiting for it
        self._open = self._failing = False
        self.index_errors = self.damaged = 0

    @property
    def index_builds(self) -> int:
        """How often the index was made, the first time included."""
        return self._index.builds

    def note_opened(self, end: Position, oldest_segment: int) -> None:
        """The log was opened, begins and ends here. Before that nothing is found."""
        self._end = self._covered = end
        self._oldest_segment = oldest_segment
        self._unsettle()
        if end != NOWHERE:
            self._wanted.set()
            self._urgent.set()

    def note_written(self, entries: Sequence[Entry], end: Position, oldest_segment: int) -> None:
        """These are stored now, and the log begins and ends here."""
        self._end, self._oldest_segment = end, oldest_segment
        if end == NOWHERE:
            return  # there is no journal: files are found by their names
        for entry in entries:
            if entry.record_id in self._recent:
                self._drop(entry.record_id)
            self._recent[entry.record_id] = _Recent(entry.line, end)
            self._recent_bytes += len(entry.line)
        while self._recent_bytes > RECENT_MAX_BYTES:
            self._covered = self._drop_oldest()
        self._wanted.set()
        if len(self._recent) >= RECENT_RECORDS or self._recent_bytes >= RECENT_BYTES:
            self._urgent.set()

    async def read(self, record_id: str) -> bytes | None:
        """The line of a record, without its newline. None: there is none, none any more, or it is damaged.

        Raises OSError.
        """
        recent = self._recent.get(record_id)
        if recent is not None:
            return recent.line
        try:
            line = None if self._end == NOWHERE else await self._fetch(record_id)
            return line if line is not None else await self._in_thread(partial(self._read_file, record_id))
        except _RecordIsDamaged:
            self.damaged += 1
            self._log("record_damaged", level="error", record=record_id)
            return None

    async def run(self) -> None:
        """Bring the index up to the end of the log, again and again. Never ends, never fails."""
        while True:
            await self._wanted.wait()
            with trio.move_on_after(self._interval_s):
                await self._urgent.wait()
            self._wanted, self._urgent = trio.Event(), trio.Event()
            if not await self._follow():
                self._wanted.set()
                await trio.sleep(self._retry_interval_s if self._failing else 0)

    async def finish(self) -> None:
        """Bring the index up to the end of the log and close it, so that the next start has nothing to do."""
        if self._end != NOWHERE:
            await self._follow()
            await self._attempt(self._index.close)

    async def close(self) -> None:
        """Let go of the index, finished or not."""
        await self._in_thread(self._index.let_go)

    async def _fetch(self, record_id: str) -> bytes | None:
        try:
            line, complete = await self._look_up(record_id)
        except (IndexDamaged, _IndexIsStale, OSError):
            line, complete = None, False
        if line is not None or complete:
            return line
        return await self._in_thread(partial(self._scan, record_id, self._end))

    async def _look_up(self, record_id: str) -> tuple[bytes | None, bool]:
        """The line, if the index has it, and whether that is the last word."""
        await self._wait_until_settled()
        complete = self._is_complete()
        try:
            return await self._in_thread(partial(self._find, record_id)), complete
        except (IndexDamaged, _IndexIsStale):
            await self._begin_anew()
        await self._wait_until_settled()
        complete = self._is_complete()
        return await self._in_thread(partial(self._find, record_id)), complete

    async def _wait_until_settled(self) -> None:
        with trio.move_on_after(self._patience_s):
            await self._settled.wait()

    def _unsettle(self) -> None:
        if not self._failing:
            self._settled = trio.Event()

    def _is_complete(self) -> bool:
        return self._open and self._index.reached >= self._covered

    async def _begin_anew(self) -> None:
        self._unsettle()
        self._open = False
        await self._attempt(self._index.discard)
        self._wanted.set()
        self._urgent.set()

    async def _follow(self) -> bool:
        """Bring the index up to where the log ends now. False: it fails."""
        end, oldest = self._end, self._oldest_segment
        if not self._open:
            self._open = await self._attempt(self._index.open)
            self._note_reached()
        while self._open and self._index.reached < end:
            if not await self._attempt(partial(self._index.follow, end, STEP_RECORDS)):
                return False
            self._note_reached()
        while self._open and self._index.oldest_segment < oldest:
            if not await self._attempt(partial(self._index.forget_before, oldest)):
                return False
        return self._open

    def _note_reached(self) -> None:
        reached = self._index.reached
        while self._recent and next(iter(self._recent.values())).end <= reached:
            self._drop_oldest()
        if self._is_complete():
            self._settled.set()

    def _drop_oldest(self) -> Position:
        return self._drop(next(iter(self._recent)))

    def _drop(self, record_id: str) -> Position:
        dropped = self._recent.pop(record_id)
        self._recent_bytes -= len(dropped.line)
        return dropped.end

    async def _attempt(self, job: Callable[[], None]) -> bool:
        """Do something to the index. False: it failed; one that is damaged is made anew the next time."""
        try:
            await self._in_thread(job)
        except (OSError, IndexDamaged) as error:
            self._note_failure(error)
            if isinstance(error, IndexDamaged):
                await self._begin_anew()
            return False
        if self._failing:
            self._failing = False
            self._unsettle()
        return True

    def _note_failure(self, error: Exception) -> None:
        self.index_errors += 1
        if not self._failing:
            self._log("record_index_failed", level="warning", error=str(error))
        self._failing = True
        self._settled.set()

    async def _in_thread(self, job: Callable[[], T]) -> T:
        # Abandoned by those who leave: the limiter keeps the next job waiting until this one has ended.
        return await trio.to_thread.run_sync(job, limiter=self._thread, abandon_on_cancel=True)

    def _find(self, record_id: str) -> bytes | None:
        place = self._index.find(record_id)
        if place is None:
            return None
        try:
            line = self._read_at(place)
        except FileNotFoundError:
            return None  # the segment was removed, for the cap's sake
        if self._ids.read_id(line) != record_id:
            raise _IndexIsStale
        return _checked(line[:-1])

    def _read_at(self, place: Place) -> bytes:
        newest = place.segment >= self._end.segment
        file = (
            open_segment(self._path, place.segment) if newest else open_to_read(closed_path(self._path, place.segment))
        )
        try:
            return os.pread(file, place.length, place.offset)
        finally:
            os.close(file)

    def _read_file(self, record_id: str) -> bytes | None:
        record = read_file(self._directory, record_id)
        return record.line if record and record.fields.get(self._ids.field) == record_id else None

    def _scan(self, record_id: str, end: Position) -> bytes | None:
        line = self._ids.find_line(iterate_log(self._path, NOWHERE, end), record_id)
        return None if line is None else _checked(line)


def _checked(line: bytes) -> bytes:
    try:
        read_record(line)
    except BadRecord as error:
        raise _RecordIsDamaged from error
    return line
