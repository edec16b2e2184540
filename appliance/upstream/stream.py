"""A stream from a backend: one request on a connection, its answer read as it comes.

Reads can be given up and taken up again: a relay does so to send its pings. A connection that has served its call to
the end, and may serve another, goes back to the pool; every other one is closed at once, which is how a call is
cancelled. Pictures and other long calls have a connection of their own (`UpstreamCall.keep_alive`).
"""

import math
from collections.abc import Awaitable
from contextlib import suppress

import trio

from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.bare import BareStream, NothingSent
from appliance.upstream.deadlines import Phase, timeout_error
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.pool import Pool
from appliance.upstream.wire import CUT_SHORT, ResponseHead, ResponseReader
from appliance.upstream.wire_request import Address

RECEIVE_BYTES = 64 * 1024
MAX_RECEIVE_BYTES = 512 * 1024  # where an answer says that it is long: each read costs a task switch

_ONE_SEND_BYTES = 256 * 1024  # head and body are joined up to here: one packet less, one copy more
# A server that had closed answers what was sent to it with a reset, in one round trip. A longer silence was work.
UNHEARD_S = 0.5


class Unheard(Exception):
    """A kept connection had ended before the backend can have worked on this call: it may be made again."""


class UpstreamStream:
    """The answer of a backend whose head has come. Made by `open_stream`, which closes it.

    `started` is when the call began; `kept`: the connection has served an earlier one.

    Deadlines count the time spent waiting in `receive`, so a client that takes its time costs the backend nothing:
    `first_byte_s` from the connection to the first byte of the body, then `idle_s` from one piece of it to the next.
    """

    def __init__(
        self,
        pool: Pool,
        connection: trio.abc.Stream,
        address: Address,
        call: UpstreamCall,
        *,
        started: float,
        kept: bool,
    ) -> None:
        self._pool = pool
        self._connection = connection
        self._bare = connection if isinstance(connection, BareStream) else None
        self._address = address
        self._call = call
        self._started = started
        self._kept = kept
        self._broken = False
        self._closed = False
        self._heard = False
        self._receive_bytes = RECEIVE_BYTES
        self._asked = started
        self._reader = ResponseReader()
        self._end = started + call.total_s
        self._phase: Phase = "first byte"
        self._limit_s = call.first_byte_s
        self._left_s = call.first_byte_s
        self.latency_s = math.nan

    @property
    def head(self) -> ResponseHead:
        if self._reader.head is None:
            raise AssertionError("unreachable: open_stream waits for the head")
        return self._reader.head

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def content_type(self) -> str:
        return self.head.content_type

    @property
    def retry_after(self) -> str | None:
        return self.head.retry_after

    async def receive(self) -> bytes:
        """Body, as much as one read gave; b"" at its proper end, and from then on.

        A receive that is cancelled loses nothing. Raises UpstreamFailed for an answer that breaks off or is not HTTP,
        UpstreamTimeout naming the deadline; whoever asks again is told again.
        """
        piece = await self.receive_within(math.inf)
        return piece if piece is not None else b""

    async def receive_within(self, seconds: float) -> bytes | None:
        """As `receive`; None when nothing came in this time, which is no failure."""
        until = trio.current_time() + seconds
        while True:
            piece = self._reader.take()
            if piece:
                self._enter_idle()
                return piece
            if self._reader.ended:
                return b""
            if not await self._read(until):
                return None

    async def read_all(self, max_bytes: int) -> bytes:
        """The rest of the body. Raises UpstreamFailed for more than `max_bytes`, and what `receive` raises."""
        if self.head.length is not None and self.head.length > max_bytes:
            raise self._failed(f"answered more than {max_bytes} bytes")
        if self._reader.ended:  # as short answers have with their head
            whole = self._reader.take()
            if len(whole) > max_bytes:
                raise self._failed(f"answered more than {max_bytes} bytes")
            return whole
        if self.head.length is not None:
            self._receive_bytes = max(RECEIVE_BYTES, min(self.head.length, MAX_RECEIVE_BYTES))
        pieces = []
        size = 0
        while piece := await self.receive():
            size += len(piece)
            if size > max_bytes:
                raise self._failed(f"answered more than {max_bytes} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def read_start(self, max_bytes: int) -> bytes:
        """The first `max_bytes` of the body at most, whatever becomes of the rest: for the answers that are refusals."""
        start = b""
        with suppress(UpstreamFailed, UpstreamTimeout):
            while len(start) < max_bytes and (piece := await self.receive()):
                start += piece
        return start[:max_bytes]

    async def ask(self, head: bytes) -> None:
        """Send the request and wait for the head of the answer. Raises Unheard, UpstreamFailed, UpstreamTimeout."""
        asked = self._asked = trio.current_time()
        try:
            await self._bounded(min(asked + self._left_s, self._end), self._ask(head))
        except trio.TooSlowError:
            raise self._too_slow(asked + self._left_s) from None
        now = trio.current_time()
        self._left_s -= now - asked
        self.latency_s = now - self._started

    def enter_body(self) -> None:
        """From here on silences count, whatever the head took: for answers that are read whole."""
        self._enter_idle()

    def close_nowait(self) -> None:
        """Give the connection back, or close it at once; a backend that is still sending hears of it with its next packet."""
        if self._closed:
            return
        self._closed = True
        self._reader.discard()
        if self._call.keep_alive and self._reader.reusable and not self._broken:
            self._pool.keep_nowait(self._address, self._connection)
        else:
            self._pool.close_nowait(self._connection)

    async def _ask(self, head: bytes) -> None:
        body = self._call.body
        try:
            if len(body) <= _ONE_SEND_BYTES:
                await self._connection.send_all(head + body)
            else:
                await self._connection.send_all(head)
                await self._connection.send_all(body)
        except NothingSent:
            if self._kept:
                raise Unheard from None
            self._broken = True
        except trio.BrokenResourceError:
            self._broken = True  # it may have answered before it had read everything, 413 for one
        while self._reader.head is None:
            await self._receive_some()

    async def _read(self, until: float) -> bool:
        """Read once; False when nothing came until then. Raises UpstreamTimeout."""
        started = trio.current_time()
        deadline = started + self._left_s
        try:
            await self._bounded(min(deadline, self._end, until), self._receive_some())
        except trio.TooSlowError:
            if until < min(deadline, self._end):
                return False
            raise self._too_slow(deadline) from None
        finally:
            self._left_s -= trio.current_time() - started
        return True

    async def _bounded(self, deadline: float, step: Awaitable[None]) -> None:
        """Do it until then. Raises trio.TooSlowError."""
        if self._bare is not None:
            self._bare.deadline = deadline
            await step
            return
        with trio.CancelScope(deadline=deadline) as scope:
            await step
        if scope.cancelled_caught:
            raise trio.TooSlowError

    async def _receive_some(self) -> None:
        if self._reader.problem is not None:
            raise self._failed(self._reader.problem)
        try:
            data = await self._connection.receive_some(self._receive_bytes)
        except trio.BrokenResourceError:
            self._check_heard()
            raise self._failed(CUT_SHORT) from None
        if data:
            self._heard = True
            self._reader.feed(data)
        else:
            self._check_heard()
            self._reader.feed_eof()

    def _check_heard(self) -> None:
        if self._kept and not self._heard and trio.current_time() - self._asked <= UNHEARD_S:
            raise Unheard

    def _too_slow(self, deadline: float) -> UpstreamTimeout:
        if deadline < self._end:
            return timeout_error(self._call.backend_class, self._phase, self._limit_s)
        return timeout_error(self._call.backend_class, "total", self._call.total_s)

    def _enter_idle(self) -> None:
        self._phase = "idle"
        self._limit_s = self._left_s = self._call.idle_s

    def _failed(self, words: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._call.backend_class} {words}.", upstream=self._call.backend_class)
