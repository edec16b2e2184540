"""Record writer: the one task that gives records their place in the chain and takes them to the disk, in groups."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path

import trio

from appliance.storage.chain import Draft, Link, seal
from appliance.storage.record_lookup import RecordLookup
from appliance.storage.record_parts import Entry
from appliance.storage.record_store import RecordStore
from appliance.storage.segments import find_end
from appliance.storage.threads import OneThread
from appliance.telemetry.log import Log

BATCH_RECORDS = 256
BATCH_BYTES = 4_194_304
UNSYNCED_RECORDS = 256
PROBE_BYTES = 65_536  # at least: a disk that takes less is as good as full


@dataclass(slots=True)
class Pending:
    """A record on its way. Once `done` is set, `line` says what is stored, or None: it is not."""

    record_id: str
    draft: Draft
    durable: bool
    done: trio.Event = field(default_factory=trio.Event)
    line: bytes | None = None


class RecordWriter:
    """Writes what comes through the channel. A batch is stored whole or refused whole.

    Records that nobody waits for to be synced are synced within `sync_interval_s`. While the disk fails, every batch
    tries it anew, and every `retry_interval_s` a probe does.
    """

    def __init__(
        self,
        path: Path,
        store: RecordStore,
        lookup: RecordLookup,
        receive: trio.MemoryReceiveChannel[Pending],
        *,
        log: Log,
        sync_interval_s: float,
        retry_interval_s: float,
    ) -> None:
        self._path = path
        self._store = store
        self._lookup = lookup
        self._receive = receive
        self._log = log
        self._sync_interval_s = sync_interval_s
        self._retry_interval_s = retry_interval_s
        self._thread = OneThread()
        self._batch: list[Pending] = []
        self._head: Link | None = None  # None: the store is not open
        self._readable = False
        self._unsynced = 0
        self._sync_at = self._probe_at = inf
        self._probe_bytes = PROBE_BYTES
        self.failing = False
        self.written = self.refused = self.errors = self.syncs = 0

    @property
    def queued(self) -> int:
        """Records that wait."""
        return self._receive.statistics().current_buffer_used + len(self._batch)

    async def open(self) -> bool:
        """Open the store. False: it cannot be written now; what it holds can be read if the disk allows that."""
        opened = await self._attempt(self._open_store)
        if opened:
            self._lookup.note_opened(self._store.end, self._store.oldest_segment)
            self._readable = True
        elif not self._readable:
            with contextlib.suppress(OSError):
                self._lookup.note_opened(await self._thread.run(partial(find_end, self._path)), 0)
                self._readable = True
        return opened

    async def run(self) -> None:
        """Write until the channel ends, then sync."""
        while await self._fill_batch():
            if self._batch:
                await self._write_batch()
            if trio.current_time() >= self._sync_at or self._unsynced >= UNSYNCED_RECORDS:
                await self._sync()
            if trio.current_time() >= self._probe_at:
                await self._probe()
        if self._unsynced:
            await self._sync()

    async def close(self) -> None:
        """Let go of the files, once the last job has ended."""
        await self._thread.wait_idle()
        await self._thread.run(self._store.close)

    def refuse_all(self) -> None:
        """Tell everybody who waits that his record is not stored; who comes later finds the channel closed."""
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                self._batch.append(self._receive.receive_nowait())
        self._refuse_batch()
        self._receive.close()

    async def _fill_batch(self) -> bool:
        """Take what is queued, or wait until there is something to do. False: nothing will come any more."""
        with trio.CancelScope(deadline=min(self._sync_at, self._probe_at)):
            try:
                self._batch.append(await self._receive.receive())
            except trio.EndOfChannel:
                return False
        size = 0
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while self._batch and len(self._batch) < BATCH_RECORDS and size < BATCH_BYTES:
                size += self._batch[-1].draft.size
                self._batch.append(self._receive.receive_nowait())
        return True

    async def _write_batch(self) -> None:
        if self._head is None:
            await self.open()
        if self._head is None:
            self._refuse_batch()
            return
        durable = any(pending.durable for pending in self._batch)
        entries = self._seal_batch(self._head)
        if await self._attempt(partial(self._store.append, entries, sync=durable)):
            self._note_written(entries, durable=durable)
            return
        self._probe_bytes = max(PROBE_BYTES, sum(len(entry.line) for entry in entries))
        self._refuse_batch()

    def _seal_batch(self, head: Link) -> list[Entry]:
        entries = []
        for pending in self._batch:
            sealed = seal(pending.draft, head)
            head = sealed.link
            entries.append(Entry(pending.record_id, sealed.line, head))
        return entries

    def _note_written(self, entries: Sequence[Entry], *, durable: bool) -> None:
        self._head = entries[-1].link
        self._lookup.note_written(entries, self._store.end, self._store.oldest_segment)
        if durable:
            self._note_synced()
        else:
            self._unsynced += len(entries)
            self._sync_at = min(self._sync_at, trio.current_time() + self._sync_interval_s)
        for pending, entry in zip(self._batch, entries, strict=True):
            pending.line = entry.line
            pending.done.set()
        self._batch = []
        self.written += len(entries)

    def _note_synced(self) -> None:
        self._unsynced, self._sync_at = 0, inf
        self.syncs += 1

    def _refuse_batch(self) -> None:
        self.refused += len(self._batch)
        for pending in self._batch:
            pending.done.set()
        self._batch = []

    async def _sync(self) -> None:
        if await self._attempt(self._store.sync):
            self._note_synced()
        else:
            self._sync_at = self._probe_at

    async def _probe(self) -> None:
        if self._head is not None or await self.open():
            await self._attempt(partial(self._store.probe, self._probe_bytes))

    def _open_store(self) -> None:
        self._head = self._store.open()

    async def _attempt(self, job: Callable[[], None]) -> bool:
        try:
            # Abandoned when the deadline of the flush passes: a disk that hangs must not hold up the end.
            await self._thread.run(job)
        except OSError as error:
            self._note_failure(error)
            return False
        if self.failing:
            self._log("records_recovered", refused=self.refused)
        self.failing, self._probe_at, self._probe_bytes = False, inf, PROBE_BYTES
        return True

    def _note_failure(self, error: OSError) -> None:
        if not self.failing:
            self._log("records_failed", level="error", error=error.strerror or str(error))
        self.errors += 1
        self.failing = True
        self._probe_at = trio.current_time() + self._retry_interval_s
