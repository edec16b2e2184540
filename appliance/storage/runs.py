"""Runs: the store of agents' transcripts. Events are safe as they happen; a run cut off by a crash gets its end."""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import trio

from appliance.protocol.canonical import canonical_json
from appliance.protocol.errors import StorageFull
from appliance.protocol.ids import is_id
from appliance.storage.atomic import Write
from appliance.storage.chain import GENESIS, BadRecord, Link, check_order, make_draft, read_record, seal
from appliance.storage.records import RecordLog
from appliance.storage.run_files import Found, RunFiles
from appliance.storage.run_index import RunIndex, RunRow
from appliance.storage.run_payloads import move_in, move_out
from appliance.telemetry.log import Log

T = TypeVar("T")
Event = Mapping[str, Any]

REMOVED_AT_ONCE = 64
CLOSE_S = 2.0
_ENDS = frozenset({"run_completed", "run_failed"})


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run: the stored bytes of its events, and the events, long payloads back in their places.

    `flaw`: the number of the first event, from 0, that is not what was written, and why; `events` ends before it.
    """

    lines: tuple[bytes, ...]
    events: tuple[Event, ...]
    flaw: tuple[int, str] | None = None


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
        self._keep_files = keep_files
        self._files_limiter = files
        self._index_limiter = index_limiter
        self._log = log
        self._now = now
        self.interrupted = 0

    def __repr__(self) -> str:
        return f"<RunStore, {self.interrupted} runs found interrupted>"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the directory and the index, and give every run that a crash cut off its end. Raises OSError."""
        await self._open()
        try:
            yield
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._in_index(self._index.close)

    async def _open(self) -> None:
        await self._in_thread(self._files.prepare)
        await self._in_index(self._index.open)
        on_disk = await self._in_thread(lambda: set(self._files.run_ids()))
        ended = await self._in_index(self._index.run_ids)
        for run_id in sorted(on_disk):
            if not ended.get(run_id, False):
                await self._take_in(run_id)
        if self._keep_files and (gone := ended.keys() - on_disk):
            await self._in_index(lambda: self._index.remove(gone))
        if self.interrupted:
            self._log("agent_runs_interrupted", level="warning", runs=self.interrupted)

    async def begin(self, run_id: str) -> "RunSink":
        """Open the file of a new run. Raises StorageFull. The caller closes the sink."""
        try:
            return RunSink(self, run_id, await self._in_thread(lambda: self._files.create(run_id)))
        except OSError:
            raise _full() from None

    async def load(self, run_id: str) -> StoredRun | None:
        """A run, finished or not. Raises OSError."""
        if not is_id("run", run_id):
            return None
        found = await self._in_thread(lambda: self._files.read(run_id))
        if found is not None and found.lines:
            return await self._in_thread(lambda: self._read(run_id, found))
        record = await self._journal.read(run_id) if self._journal is not None else None
        return None if record is None else _from_journal(record)

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
        return await self._in_index(
            lambda: self._index.newest(limit=limit, owner=owner, agent=agent, ok=ok, before=before)
        )

    async def write(self, sink: "RunSink", line: bytes, payloads: Mapping[str, bytes], *, durable: bool) -> None:
        """Add a line to a run's file, its payloads first; all of it or nothing. Raises StorageFull.

        Cancellation waits for the thread: the line is whole, or it is not there.
        """

        def put() -> None:
            self._files.save_payloads(sink.run_id, payloads, durable=durable or self._durable)
            self._files.append(sink.file, line, sink.size, durable=durable or self._durable)

        try:
            await self._in_thread(put)
        except OSError:
            raise _full() from None

    async def note(self, row: RunRow) -> None:
        """Put a run into the index; one that has ended goes into the journal too, and the oldest go where it is full."""
        if row.ok is not None:
            row = replace(row, bytes=await self._in_thread(lambda: self._files.size(row.run_id)))
            await self._to_journal(row.run_id)
        await self._in_index(lambda: self._index.put([row]))
        if row.ok is not None and self._total_max_bytes:
            await self._make_room()

    async def _to_journal(self, run_id: str) -> None:
        if self._journal is None:
            return
        found = await self.load(run_id)
        if found is not None and await self._journal.read(run_id) is None:
            await self._journal.append(run_id, _document(found.events), durable=True)
        if not self._keep_files:
            await self._in_thread(lambda: self._files.remove(run_id))

    async def _take_in(self, run_id: str) -> None:
        """A file that the index does not know to be finished: it gets its end where it has none, and is noted."""
        reopened = await self._in_thread(lambda: self._files.reopen(run_id))
        if reopened is None:  # cut off before its first event was whole: nobody was told of it
            await self._in_thread(lambda: self._files.remove(run_id))
            return
        file, found = reopened
        with RunSink(self, run_id, file, found) as sink:
            events = (await self._in_thread(lambda: self._read(run_id, found))).events
            if not events or events[-1]["type"] not in _ENDS:
                self.interrupted += 1
                await sink.append(_interruption(self._now(), events))
            elif sink.row is not None:
                await self.note(_ended_row(sink.row, events[-1]))

    def _read(self, run_id: str, found: Found) -> StoredRun:
        events: list[Event] = []
        link: Link | None = GENESIS
        for number, line in enumerate(found.lines):
            try:
                record = read_record(line)
                check_order(record, link)
                events.append(move_in(record.fields, lambda digest: self._files.load_payload(run_id, digest)))
            except (BadRecord, ValueError, LookupError, TypeError) as error:
                return StoredRun(found.lines, tuple(events), (number, str(error)))
            except OSError:
                return StoredRun(found.lines, tuple(events), (number, "what was too long for its line is missing"))
            link = record.link
        return StoredRun(found.lines, tuple(events))

    async def _make_room(self) -> None:
        excess = await self._in_index(self._index.total_bytes) - self._total_max_bytes
        while excess > 0:
            oldest = await self._in_index(lambda: self._index.oldest_ended(REMOVED_AT_ONCE))
            going = _enough(oldest, excess)
            if not going:
                return
            await self._in_thread(lambda: self._files.remove_all(going))  # noqa: B023 -- awaited here
            await self._in_index(lambda: self._index.remove(going))  # noqa: B023 -- awaited here
            excess -= sum(going.values())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._files_limiter)

    async def _in_index(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._index_limiter)


class RunSink:
    """One run's file while it runs: events go in, in order. Closed by leaving it as a context.

    `lines`: what was stored, the stored bytes; `size`: of the file.
    """

    def __init__(self, store: RunStore, run_id: str, file: int, found: Found | None = None) -> None:
        self.run_id = run_id
        self.file = file
        self.lines: list[bytes] = list(found.lines) if found else []
        self.size = found.size if found else 0
        self.row = _first_row(read_record(self.lines[0]).fields) if self.lines else None
        self._store = store
        self._link = found.link if found else GENESIS

    def __enter__(self) -> "RunSink":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    async def append(self, fields: Event) -> None:
        """Keep one event. It survives a kill -9 when this returns; a durable store's, a power cut. Raises StorageFull."""
        kept, payloads = move_out(fields)
        sealed = seal(make_draft(kept), self._link)
        last = fields["type"] in _ENDS
        await self._store.write(self, sealed.line, payloads, durable=last)
        self._link = sealed.link
        self.size += len(sealed.line) + 1
        self.lines.append(sealed.line)
        if self.row is None:
            self.row = _first_row(fields)
            await self._store.note(self.row)
        elif last:
            self.row = _ended_row(self.row, fields)
            await self._store.note(self.row)


def _first_row(started: Event) -> RunRow:
    names = ("run_id", "owner", "agent", "backend", "upstream_model")
    return RunRow(started=started["ts"], **{name: started[name] for name in names})


def _ended_row(row: RunRow, ended: Event) -> RunRow:
    return replace(row, ok=ended["ok"], error=ended.get("error"), ended=ended["ts"], steps=ended["steps"])


def _interruption(ts: float, events: Sequence[Event]) -> dict[str, Any]:
    steps = sum(event.get("step") is not None for event in events)
    place = {"turn": events[-1]["turn"] if events else None, "step": None, "steps": steps}
    return {"ts": round(ts, 6), "type": "run_failed", **place, "ok": False, "error": "interrupted"}


def _document(events: Sequence[Event]) -> dict[str, Any]:
    """A finished run as one record: the fields of its transcript, whole."""
    first, last = events[0], events[-1]
    names = ("request_hash", "agent", "tier", "backend", "upstream_model", "owner")
    ended = {"ok": last["ok"], "output_text": last.get("output_text", ""), "error": last.get("error")}
    forked = {"forked_from": first["forked_from"]} if "forked_from" in first else {}
    return {**{name: first[name] for name in names}, **ended, **forked, "events": list(events)}


def _from_journal(record: bytes) -> StoredRun:
    try:
        events = read_record(record).fields["events"]
    except (BadRecord, KeyError) as error:
        return StoredRun((record,), (), (0, str(error)))
    return StoredRun(tuple(canonical_json(event).encode("ascii") for event in events), tuple(events))


def _enough(oldest: Sequence[tuple[str, int]], excess: int) -> dict[str, int]:
    going: dict[str, int] = {}
    for run_id, size in oldest:
        if sum(going.values()) >= excess:
            break
        going[run_id] = size
    return going


def _full() -> StorageFull:
    return StorageFull("An event of this run")
