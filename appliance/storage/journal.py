"""Journal: one line of JSON per request, written by one task, never in a request's way."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from pydantic_core import to_json

from appliance.storage.atomic import Write
from appliance.storage.lines import Appended, append_lines
from appliance.telemetry.log import Log

QUEUE_LINES = 4096  # two seconds of a busy gateway, about 2 MB: what a stalled disk may cost
BATCH_LINES = 1024  # one write takes at most this many, 0.25 MB
MAX_LINE_BYTES = 16_384  # a line is some hundred bytes; what is longer holds something that it should not


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """Lines since the start, and whether the last attempt to write failed."""

    written: int = 0
    dropped: int = 0
    errors: int = 0
    torn_tails: int = 0
    turned_over: int = 0
    queued: int = 0
    failing: bool = False


class RequestJournal:
    """Lines go into a bounded channel and from there to the disk; lines that find it full are dropped and counted.

    They are written together every `linger_s`: a kill -9 loses that much. A disk that fails is tried again every
    `retry_interval_s`, with the lines of the failed batch first.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        limiter: trio.CapacityLimiter,
        log: Log,
        linger_s: float = 0.05,
        retry_interval_s: float = 1.0,
        flush_timeout_s: float = 2.0,
        write: Write = os.write,
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._limiter = limiter
        self._log = log
        self._linger_s = linger_s
        self._retry_interval_s = retry_interval_s
        self._flush_timeout_s = flush_timeout_s
        self._write = write
        self._send, self._receive = trio.open_memory_channel[bytes](QUEUE_LINES)
        self._closing = trio.Event()
        self._attempted = trio.lowlevel.ParkingLot()
        self._batch: list[bytes] = []
        self._statistics = JournalStatistics()

    def __repr__(self) -> str:
        now = self.statistics()
        state = "failing" if now.failing else "well"
        return f"<RequestJournal {state}, {now.queued} queued, {now.written} written, {now.dropped} dropped>"

    def statistics(self) -> JournalStatistics:
        return replace(self._statistics, queued=self._queued())

    def record_nowait(self, record: Mapping[str, object]) -> None:
        """Queue one line; never blocks, never fails for the disk's sake. Raises ValueError: not JSON.

        Compact, UTF-8, fields in their order: nobody hashes these lines, and every request waits for its own.
        """
        line = to_json(record, inf_nan_mode="null") + b"\n"
        if len(line) > MAX_LINE_BYTES:
            self._count(dropped=1)
            return
        try:
            self._send.send_nowait(line)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._count(dropped=1)

    async def wait_attempt(self) -> None:
        """Return after the next attempt to write, whatever came of it; at once if there is nothing to write."""
        if self._batch or self._queued():
            await self._attempted.park()

    def close_nowait(self) -> None:
        """No more lines: `run` writes what is queued, within its deadline, and returns."""
        self._send.close()
        self._closing.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is queued until `close_nowait`, then the rest within `flush_timeout_s`; what is left is lost."""
        await self._write_batch()  # completes a torn tail, and tells early of a disk that does not take lines
        task_status.started()
        with self._receive:
            try:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._limit_flush, scope)
                        await self._write_lines()
                        nursery.cancel_scope.cancel()
            finally:
                self._count(dropped=len(self._batch) + self._queued())

    async def _limit_flush(self, scope: trio.CancelScope) -> None:
        await self._closing.wait()
        scope.deadline = trio.current_time() + self._flush_timeout_s

    async def _write_lines(self) -> None:
        async for line in self._receive:
            self._batch = [line]
            if self._queued() < BATCH_LINES:
                await self._pause(self._linger_s)  # one thread's round trip for many lines, not one for each
            self._fill_batch()
            while not await self._write_batch():
                if self._closing.is_set():
                    return
                await self._pause(self._retry_interval_s)

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._closing.wait()

    def _queued(self) -> int:
        return self._receive.statistics().current_buffer_used

    def _fill_batch(self) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(self._batch) < BATCH_LINES:
                self._batch.append(self._receive.receive_nowait())

    async def _write_batch(self) -> bool:
        try:
            # Abandoned when the deadline of the flush passes: a disk that hangs must not hold up the end.
            appended = await trio.to_thread.run_sync(
                append_lines,
                self._path,
                b"".join(self._batch),
                self._max_bytes,
                self._write,
                limiter=self._limiter,
                abandon_on_cancel=True,
            )
        except OSError as error:
            self._note_failure(error)
            return False
        finally:
            self._attempted.unpark_all()
        self._note_success(appended)
        return True

    def _note_failure(self, error: OSError) -> None:
        if not self._statistics.failing:
            self._log("journal_failed", level="error", error=error.strerror or str(error))
        self._statistics = replace(self._statistics, failing=True, errors=self._statistics.errors + 1)

    def _note_success(self, appended: Appended) -> None:
        if self._statistics.failing:
            self._log("journal_recovered", dropped=self._statistics.dropped)
            self._statistics = replace(self._statistics, failing=False)
        self._count(written=len(self._batch), torn_tails=appended.torn_tail, turned_over=appended.turned_over)
        self._batch = []

    def _count(self, **changes: int) -> None:
        changed = {key: getattr(self._statistics, key) + change for key, change in changes.items()}
        self._statistics = replace(self._statistics, **changed)
