"""Records: an append-only log that answers what it acknowledged, after a crash too. One writer task, group commit."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import trio

from appliance.protocol.errors import ShuttingDown, StorageFull
from appliance.storage.atomic import Write
from appliance.storage.chain import Draft, Link, Sealed, make_draft, seal
from appliance.storage.record_journal import RecordJournal
from appliance.storage.record_lookup import RecordLookup
from appliance.storage.record_sink import Entry, Sync
from appliance.telemetry.log import Log

Mode = Literal["ndjson", "per_invocation", "both"]
T = TypeVar("T")

QUEUE_RECORDS = 1024  # four batches: who comes later waits for a place
BATCH_RECORDS = 256
BATCH_BYTES = 4_194_304
UNSYNCED_RECORDS = 256
PROBE_BYTES = 65_536  # at least: a disk that takes less is as good as full


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """Records since the start, and whether the last attempt to write failed."""

    written: int = 0
    refused: int = 0
    errors: int = 0
    syncs: int = 0
    queued: int = 0
    torn_tails: int = 0
    segments_removed: int = 0
    failing: bool = False


@dataclass(slots=True)
class _Pending:
    """A record on its way. `line`: it is stored; `done` without a line: it is not."""

    record_id: str
    draft: Draft
    durable: bool
    done: trio.Event = field(default_factory=trio.Event)
    line: bytes | None = None


class RecordLog:
    """Records go into a bounded queue and from there, in groups, to the disk; who appends waits until his is there.

    `limiter`: threads of its own, two: the second is for one that was abandoned on a hung disk. `path`: see
    `appliance.storage.segments`; `id_field`: the field that a record's id is put into.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        total_max_bytes: int,
        limiter: trio.CapacityLimiter,
        log: Log,
        id_field: str,
        sync_interval_s: float = 0.05,
        retry_interval_s: float = 1.0,
        flush_timeout_s: float = 2.0,
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> None:
        self._sink = RecordJournal(path, max_bytes=max_bytes, total_max_bytes=total_max_bytes, write=write, sync=sync)
        self._lookup = RecordLookup(path, id_field=id_field, limiter=limiter)
        self._limiter = limiter
        self._log = log
        self._id_field = id_field
        self._sync_interval_s = sync_interval_s
        self._retry_interval_s = retry_interval_s
        self._flush_timeout_s = flush_timeout_s
        self._send, self._receive = trio.open_memory_channel[_Pending](QUEUE_RECORDS)
        self._closing = trio.Event()
        self._batch: list[_Pending] = []
        self._head: Link | None = None
        self._unsynced = 0
        self._sync_at = float("inf")
        self._probe_at = float("inf")
        self._probe_bytes = PROBE_BYTES
        self._statistics = RecordStatistics()

    def __repr__(self) -> str:
        now = self.statistics()
        state = "failing" if now.failing else "well"
        return f"<RecordLog {state}, {now.queued} queued, {now.written} written, {now.refused} refused>"

    def statistics(self) -> RecordStatistics:
        return replace(
            self._statistics,
            queued=self._receive.statistics().current_buffer_used + len(self._batch),
            torn_tails=self._sink.torn_tails,
            segments_removed=self._sink.segments_removed,
        )

    async def append(self, record_id: str, fields: Mapping[str, object], *, durable: bool) -> bytes:
        """Store one record and return its line, without a newline. It survives a kill -9 then; durable: a power cut.

        Cancelled while it waits for its turn, nothing is stored; later, the record still is. Raises StorageFull: it is
        not stored; ShuttingDown; TypeError, ValueError: the fields are no JSON.
        """
        pending = _Pending(record_id, make_draft({**fields, self._id_field: record_id}), durable)
        try:
            await self._send.send(pending)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ShuttingDown from None
        await pending.done.wait()
        if pending.line is None:
            raise StorageFull("The record of this call")
        return pending.line

    def check_writable(self) -> None:
        """Raise StorageFull while the disk does not take records: for those who must not begin without one."""
        if self._statistics.failing:
            raise StorageFull("The record of this call")

    async def read(self, record_id: str) -> bytes | None:
        """The line of a record, byte for byte, without its newline. None: there is none, or no more. Raises OSError."""
        return await self._lookup.read(record_id, self._sink.end)

    def close_nowait(self) -> None:
        """No more records: `run` writes what is queued, within its deadline, and returns."""
        self._send.close()
        self._closing.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is queued until `close_nowait`, then the rest within `flush_timeout_s`; who still waits is refused.

        A log that cannot be opened does not hold up the start: it is failing, and tried again.
        """
        with self._receive:
            try:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._limit_flush, scope)
                        await self._open()
                        task_status.started()
                        await self._write_batches()
                        await self._settle()
                        nursery.cancel_scope.cancel()
            finally:
                self._refuse_all()

    async def _limit_flush(self, scope: trio.CancelScope) -> None:
        await self._closing.wait()
        scope.deadline = trio.current_time() + self._flush_timeout_s

    async def _write_batches(self) -> None:
        while await self._fill_batch():
            if self._batch:
                await self._write_batch()
            now = trio.current_time()
            if now >= self._sync_at or self._unsynced >= UNSYNCED_RECORDS:
                await self._sync()
            if now >= self._probe_at:
                await self._probe()

    async def _fill_batch(self) -> bool:
        """Take what is queued, or wait for it until there is something else to do. False: nothing will come any more."""
        with trio.CancelScope(deadline=min(self._sync_at, self._probe_at)):
            try:
                self._batch.append(await self._receive.receive())
            except trio.EndOfChannel:
                return False
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            size = 0
            while self._batch and len(self._batch) < BATCH_RECORDS and size < BATCH_BYTES:
                self._batch.append(self._receive.receive_nowait())
                size += self._batch[-1].draft.size
        return True

    async def _write_batch(self) -> None:
        durable = any(pending.durable for pending in self._batch)
        if self._head is None and not await self._open():
            self._refuse_batch()
            return
        entries = self._seal_batch()
        if await self._attempt(partial(self._sink.append, entries, sync=durable)):
            self._note_written(entries, durable)
        else:
            self._probe_bytes = max(PROBE_BYTES, sum(len(entry.line) for entry in entries))
            self._refuse_batch()

    def _seal_batch(self) -> list[Entry]:
        entries = []
        head = self._head
        assert head is not None
        for pending in self._batch:
            sealed: Sealed = seal(pending.draft, head)
            head = sealed.link
            entries.append(Entry(pending.record_id, sealed.line, head))
        return entries

    def _note_written(self, entries: Sequence[Entry], durable: bool) -> None:
        self._head = entries[-1].link
        self._lookup.note(entries, self._sink.end)
        if durable:
            self._note_synced()
        else:
            if not self._unsynced:
                self._sync_at = trio.current_time() + self._sync_interval_s
            self._unsynced += len(entries)
        for pending, entry in zip(self._batch, entries, strict=True):
            pending.line = entry.line
            pending.done.set()
        self._batch = []
        self._count(written=len(entries))

    def _note_synced(self) -> None:
        self._unsynced, self._sync_at = 0, float("inf")
        self._count(syncs=1)

    async def _open(self) -> bool:
        return await self._attempt(self._open_sink)

    def _open_sink(self) -> None:
        self._head = self._sink.open()

    async def _sync(self) -> None:
        if await self._attempt(self._sink.sync):
            self._note_synced()
        else:
            self._sync_at = trio.current_time() + self._retry_interval_s

    async def _probe(self) -> None:
        if self._head is not None or await self._open():
            await self._attempt(partial(self._sink.probe, self._probe_bytes))

    async def _settle(self) -> None:
        if self._unsynced:
            await self._sync()
        await trio.to_thread.run_sync(self._sink.close, limiter=self._limiter, abandon_on_cancel=True)

    async def _attempt(self, job: Callable[[], None]) -> bool:
        try:
            # Abandoned when the deadline of the flush passes: a disk that hangs must not hold up the end.
            await trio.to_thread.run_sync(job, limiter=self._limiter, abandon_on_cancel=True)
        except OSError as error:
            self._note_failure(error)
            return False
        self._note_success()
        return True

    def _note_failure(self, error: OSError) -> None:
        if not self._statistics.failing:
            self._log("records_failed", level="error", error=error.strerror or str(error))
        self._probe_at = trio.current_time() + self._retry_interval_s
        self._statistics = replace(self._statistics, failing=True, errors=self._statistics.errors + 1)

    def _note_success(self) -> None:
        if self._statistics.failing:
            self._log("records_recovered", refused=self._statistics.refused)
            self._statistics = replace(self._statistics, failing=False)
            self._probe_at, self._probe_bytes = float("inf"), PROBE_BYTES

    def _refuse_batch(self) -> None:
        self._count(refused=len(self._batch))
        for pending in self._batch:
            pending.done.set()
        self._batch = []

    def _refuse_all(self) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                self._batch.append(self._receive.receive_nowait())
        self._refuse_batch()

    def _count(self, **changes: int) -> None:
        changed = {key: getattr(self._statistics, key) + change for key, change in changes.items()}
        self._statistics = replace(self._statistics, **changed)
