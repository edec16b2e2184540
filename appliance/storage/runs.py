"""Runs: the store of agents' transcripts. Events are safe as they happen; a run cut off by a crash gets its end."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from appliance.protocol.errors import GatewayError, StorageFull
from appliance.protocol.ids import is_id
from appliance.storage.atomic import Write
from appliance.storage.records import RecordLog
from appliance.storage.run_files import RunFiles
from appliance.storage.run_index import RunIndex, RunRow
from appliance.storage.run_records import StoredRun, from_record, read_run, to_record
from appliance.storage.run_recovery import look_at_runs, rows_in_journal
from appliance.storage.run_sink import Event, Put, RunSink
from appliance.storage.segments import MAX_LINE_BYTES
from appliance.telemetry.log import Log

T = TypeVar("T")

REMOVED_AT_ONCE = 64
CLOSE_S = 2.0
MAX_RECORD_BYTES = MAX_LINE_BYTES // 2  # payloads are escaped once more in a record


@dataclass(frozen=True, slots=True)
class RunStoreStatistics:
    """Since the start; `failing`: the last attempt to store an event failed."""

    interrupted: int
    errors: int
    failing: bool


class RunStore:
    """A file for each run below `directory`. With `journal`, a finished run is a record there too, or there alone.

    `index_limiter`: one thread, SQLite's. `durable`: an event is on the disk before the run goes on, not just written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        total_max_bytes: int,
        durable: bool,
        journal: RecordLog | None,
        journal_path: Path | None = None,
        keep_files: bool,
        files: trio.CapacityLimiter,
        index_limiter: trio.CapacityLimiter,
        log: Log,
        write: Write = os.write,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._files = RunFiles(directory, write)
        self._index = RunIndex(directory)
        self._total_max_bytes = total_max_bytes
        self._durable = durable
        self._journal = journal
        self._journal_path = journal_path
        self._keep_files = keep_files
        self._files_limiter = files
        self._index_limiter = index_limiter
        self._log = log
        self._now = now
        self._running: dict[str, RunRow] = {}
        self._without_end: set[str] = set()
        self._total_bytes = 0
        self._interrupted = 0
        self._errors = 0
        self._failing = False

    def __repr__(self) -> str:
        state = "failing" if self._failing else "well"
        return f"<RunStore {state}, {len(self._running)} running, {self._interrupted} found interrupted>"

    def statistics(self) -> RunStoreStatistics:
        return RunStoreStatistics(self._interrupted, self._errors, self._failing)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the directory and the index, and give every run that a crash cut off its end. Raises OSError."""
        await self._in_thread(self._files.prepare)
        await self._in_index(self._index.open)
        try:
            await self._recover()
            yield
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._in_index(self._index.close)

    def begin(self, run_id: str) -> RunSink:
        """A new run, which leaves nothing until its first event is kept. The caller closes the sink."""
        return RunSink(run_id, self._files, self._put, self._note, self._without_end.add)

    async def load(self, run_id: str) -> StoredRun | None:
        """A run, finished or not. Raises OSError."""
        if not is_id("run", run_id):
            return None
        found = await self._in_thread(lambda: self._read(run_id))
        if found is not None and (found.flaw is None or self._keep_files):
            return found  # where files are not kept, this one may be on its way into the journal
        record = await self._journal.read(run_id) if self._journal is not None else None
        return found if record is None else from_record(record)

    async def owner_of(self, run_id: str) -> str | None:
        """Whose run it is, also where its record is too damaged to say so. None: not known."""
        running = self._running.get(run_id)
        return running.owner if running is not None else await self._in_index(lambda: self._index.owner_of(run_id))

    async def newest(
        self,
        *,
        limit: int,
        owner: str | None,
        agent: str | None = None,
        ok: bool | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[RunRow]:
        """At most `limit` runs, newest first. `owner` None: everybody's; `before`: the last row of the page before."""
        rows = await self._in_index(
            lambda: self._index.newest(limit=limit, owner=owner, agent=agent, ok=ok, before=before)
        )
        ended = {row.run_id for row in rows}
        running = [
            row
            for row in self._running.values()
            if ok is None
            and owner in {None, row.owner}
            and agent in {None, row.agent}
            and (before is None or (row.started, row.run_id) < before)
            and row.run_id not in ended
        ]
        return sorted([*rows, *running], key=lambda row: (row.started, row.run_id), reverse=True)[:limit]

    async def _put(self, sink: RunSink, put: Put) -> None:
        """Cancellation waits for the thread: the line is whole, or it is not there."""
        durable = put.durable or self._durable

        def write() -> None:
            if sink.file is None:
                sink.file = self._files.create(sink.run_id)
            self._files.save_payloads(sink.run_id, put.payloads, durable=durable)
            self._files.append(sink.file, put.line, sink.size, durable=durable)

        try:
            await self._in_thread(write)
        except OSError as error:
            if not self._failing:
                self._log("agent_run_not_stored", level="error", run_id=sink.run_id, error=str(error))
            self._errors += 1
            self._failing = True
            raise StorageFull("An event of this run") from None
        self._failing = False

    async def _note(self, sink: RunSink, row: RunRow) -> None:
        """A run that goes on is kept in mind; one that has ended goes to the journal and the index.

        Its events are kept already: what fails here is made good by the next start. Runs whose end could not be kept
        before get it now.
        """
        if row.ok is None:
            self._running[row.run_id] = row
            return
        try:
            if self._journal is not None:
                await self._to_journal(row.run_id, sink.lines, row.bytes)
            await self._index_ended([row])
            await self._make_room()
        except (GatewayError, OSError, sqlite3.Error) as error:
            self._log("agent_run_not_noted", level="warning", run_id=row.run_id, error=str(error))
        finally:
            self._running.pop(row.run_id, None)
        while self._without_end:  # the disk takes events again
            await self._interrupt(self._without_end.pop())

    async def _index_ended(self, rows: Sequence[RunRow]) -> None:
        await self._in_index(lambda: self._index.put(rows))
        self._total_bytes += sum(row.bytes for row in rows)

    async def _to_journal(self, run_id: str, lines: Sequence[bytes], size: int) -> None:
        if self._journal is None or size > MAX_RECORD_BYTES:
            return  # too long for a line of the journal: it stays a file

        def document() -> Mapping[str, Any]:
            return to_record(lines, lambda digest: self._files.load_payload(run_id, digest))

        if await self._journal.read(run_id) is None:
            await self._journal.append(run_id, await self._in_thread(document), durable=True)
        if not self._keep_files:
            await self._in_thread(lambda: self._files.remove(run_id))

    async def _recover(self) -> None:
        on_disk = await self._in_thread(lambda: frozenset(self._files.run_ids()))
        known = await self._in_index(self._index.run_ids)
        if not self._keep_files and not known and self._journal_path is not None:
            path = self._journal_path
            await self._in_index(lambda: self._index.put(rows_in_journal(path)))
        elif self._keep_files and (gone := known - on_disk):
            await self._in_index(lambda: self._index.remove(gone))
        self._total_bytes = await self._in_index(self._index.total_bytes)
        found = await self._in_thread(lambda: look_at_runs(self._files, sorted(on_disk - known)))
        if self._journal is not None:
            for row in found.ended:
                await self._take_in(row)
        await self._index_ended(found.ended)
        for run_id in found.cut:
            await self._interrupt(run_id)
        if found.unreadable:
            self._log("agent_runs_unreadable", level="error", runs=len(found.unreadable), first=found.unreadable[0])
        if self._interrupted:
            self._log("agent_runs_interrupted", level="warning", runs=self._interrupted)

    async def _take_in(self, row: RunRow) -> None:
        """A run whose end did not reach the journal."""
        found = await self._in_thread(lambda: self._files.read(row.run_id))
        try:
            if found is not None:
                await self._to_journal(row.run_id, found.lines, row.bytes)
        except (GatewayError, OSError, ValueError) as error:
            self._log("agent_run_not_noted", level="warning", run_id=row.run_id, error=str(error))

    async def _interrupt(self, run_id: str) -> None:
        """Give a run that was cut off its end. What cannot be done now is left to the next start, and holds up nothing."""
        try:
            reopened = await self._in_thread(lambda: self._files.reopen(run_id))
            if reopened is None:
                return
            with self.begin(run_id) as sink:
                sink.go_on(*reopened)
                found = await self._in_thread(lambda: self._read(run_id))
                events = found.events if found is not None else ()
                self._interrupted += 1
                await sink.append(_interruption(self._now(), events, len(sink.lines)))
        except (GatewayError, OSError, LookupError) as error:
            self._log("agent_run_without_end", level="error", run_id=run_id, error=str(error))

    def _read(self, run_id: str) -> StoredRun | None:
        found = self._files.read(run_id)
        if found is None or not found.lines:
            return None
        return read_run(found.lines, lambda digest: self._files.load_payload(run_id, digest))

    async def _make_room(self) -> None:
        while self._total_max_bytes and self._total_bytes > self._total_max_bytes:
            oldest = await self._in_index(lambda: self._index.oldest_ended(REMOVED_AT_ONCE))
            going = _enough(oldest, self._total_bytes - self._total_max_bytes)
            if not going:
                return
            await self._in_thread(lambda: self._files.remove_all(going))  # noqa: B023 -- awaited here
            await self._in_index(lambda: self._index.remove(going))  # noqa: B023 -- awaited here
            self._total_bytes -= sum(going.values())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._files_limiter)

    async def _in_index(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._index_limiter)


def _interruption(ts: float, events: Sequence[Event], lines: int) -> dict[str, Any]:
    """`lines` may be more than events: where a payload is missing, its line still is a step."""
    place = {"turn": events[-1]["turn"] if events else None, "step": None, "steps": lines - 1}
    return {"ts": round(ts, 6), "type": "run_failed", **place, "ok": False, "error": "interrupted"}


def _enough(oldest: Sequence[tuple[str, int]], excess: int) -> dict[str, int]:
    going: dict[str, int] = {}
    for run_id, size in oldest:
        if sum(going.values()) >= excess:
            break
        going[run_id] = size
    return going
