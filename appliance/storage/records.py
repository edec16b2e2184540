"""Records: an append-only log that answers, byte for byte and after a crash too, what it acknowledged."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.protocol.errors import ShuttingDown, StorageFull
from appliance.storage.atomic import Write
from appliance.storage.chain import make_draft
from appliance.storage.record_index import read_boot_id
from appliance.storage.record_lookup import RecordLookup
from appliance.storage.record_parts import RECORD_ID, Sync
from appliance.storage.record_store import RecordMode, RecordStore
from appliance.storage.record_writer import Pending, RecordWriter
from appliance.storage.segments import MAX_LINE_BYTES
from appliance.telemetry.log import Log

QUEUE_RECORDS = 1024  # four batches; who comes later waits for a place
MAX_RECORD_BYTES = MAX_LINE_BYTES - 1024  # the chain's own fields need 200; a longer line no reader would take
_CLEANUP_S = 1.0


@dataclass(frozen=True, slots=True)
class RecordStatistics:
    """Records since the start, and whether the last attempt to write failed.

    `torn_tails` were set aside; `removed`: segments and files, for the cap's sake; `damaged`: records that somebody
    wanted to read and that do not match their hash.
    """

    written: int
    refused: int
    queued: int
    errors: int
    syncs: int
    torn_tails: int
    removed: int
    damaged: int
    index_builds: int
    index_errors: int
    failing: bool


class RecordLog:
    """Records go into a bounded queue and from there, in groups, to the disk; who appends waits until his is there.

    `path`: the journal, see `appliance.storage.segments`; `directory`: where files of their own go, in modes that have
    them. `id_field`: the field that a record's id is put into. `max_bytes`: of a segment, `total_max_bytes`: of all
    records; 0: no limit. One process at a time writes a log; for the others it is failing, and can be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        directory: Path,
        mode: RecordMode,
        id_field: str,
        max_bytes: int,
        total_max_bytes: int,
        log: Log,
        sync_interval_s: float = 0.05,
        retry_interval_s: float = 1.0,
        flush_timeout_s: float = 2.0,
        lookup_patience_s: float = 2.0,
        write: Write = os.write,
        sync: Sync = os.fdatasync,
        boot_id: Callable[[], str] = read_boot_id,
    ) -> None:
        self._id_field = id_field
        self._flush_timeout_s = flush_timeout_s
        self._send, receive = trio.open_memory_channel[Pending](QUEUE_RECORDS)
        self._closing = trio.Event()
        self._store = RecordStore(
            path, directory, mode, max_bytes=max_bytes, total_max_bytes=total_max_bytes, write=write, sync=sync
        )
        self._lookup = RecordLookup(
            path, directory, id_field=id_field, log=log, boot_id=boot_id, patience_s=lookup_patience_s
        )
        self._writer = RecordWriter(
            path,
            self._store,
            self._lookup,
            receive,
            log=log,
            sync_interval_s=sync_interval_s,
            retry_interval_s=retry_interval_s,
        )

    def __repr__(self) -> str:
        now = self._writer
        state = "failing" if now.failing else "well"
        return f"<RecordLog {state}, {now.queued} queued, {now.written} written, {now.refused} refused>"

    def statistics(self) -> RecordStatistics:
        """What happened since the start."""
        return RecordStatistics(
            written=self._writer.written,
            refused=self._writer.refused,
            queued=self._writer.queued,
            errors=self._writer.errors,
            syncs=self._writer.syncs,
            torn_tails=self._store.torn_tails,
            removed=self._store.removed,
            damaged=self._lookup.damaged,
            index_builds=self._lookup.index_builds,
            index_errors=self._lookup.index_errors,
            failing=self._writer.failing,
        )

    def check_writable(self) -> None:
        """Raise StorageFull while the disk does not take records: for those who must not begin without one."""
        if self._writer.failing:
            raise _not_stored()

    async def append(self, record_id: str, fields: Mapping[str, object], *, durable: bool) -> bytes:
        """Store one record and return its line, without a newline. It survives a kill -9 then; durable: a power cut.

        Cancelled before it has a place in the queue, nothing is stored; later, the record still is. Raises StorageFull:
        it is not stored; ShuttingDown; TypeError, ValueError: the fields are no JSON with texts for keys at every level,
        or use names of the chain's, or the id is none.
        """
        if RECORD_ID.fullmatch(record_id) is None:
            raise ValueError("not an id")
        pending = Pending(record_id, make_draft({**fields, self._id_field: record_id}), durable)
        if pending.draft.size > MAX_RECORD_BYTES:
            raise StorageFull("The record of this call", remedy=f"it may have {MAX_RECORD_BYTES} bytes")
        await self._enqueue(pending)
        await pending.done.wait()
        if pending.line is None:
            raise _not_stored()
        return pending.line

    async def read(self, record_id: str) -> bytes | None:
        """The line of a record, byte for byte, without its newline. Raises OSError.

        None: there is none; it was removed, for the cap's sake; it was damaged.
        """
        return await self._lookup.read(record_id)

    def close_nowait(self) -> None:
        """No more records: `run` writes what is queued, within its deadline, and returns."""
        self._send.close()
        self._closing.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is queued until `close_nowait`, then the rest within `flush_timeout_s`; who still waits is refused.

        A log that cannot be opened does not hold up the start: it is failing, and tried again.
        """
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._limit_flush, scope)
                    await self._writer.open()
                    nursery.start_soon(self._lookup.run)
                    task_status.started()
                    await self._writer.run()
                    nursery.cancel_scope.cancel()
                await self._lookup.finish()
        finally:
            self._writer.refuse_all()
            with trio.move_on_after(_CLEANUP_S, shield=True):
                await self._writer.close()
                await self._lookup.close()

    async def _enqueue(self, pending: Pending) -> None:
        try:
            try:
                self._send.send_nowait(pending)  # `send` costs one more round of the scheduler
            except trio.WouldBlock:
                await self._send.send(pending)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ShuttingDown from None

    async def _limit_flush(self, scope: trio.CancelScope) -> None:
        await self._closing.wait()
        scope.deadline = trio.current_time() + self._flush_timeout_s


def _not_stored() -> StorageFull:
    return StorageFull("The record of this call")
