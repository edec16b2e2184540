"""A stream from a backend: one request on a connection of its own, its answer read as it comes.

Reads can be given up and taken up again, which httpx's cannot: a relay does so to send its pings. A connection serves
one stream and is closed with it. Most calls are POSTs that must not run twice, and one that was sent on a connection
just being closed cannot be told from one that ran; on a LAN a connection costs a fraction of a millisecond.
"""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.deadlines import Deadlines, Phase, timeout_error
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.stream_connect import Connect, dial
from appliance.upstream.wire import CUT_SHORT, ResponseHead, ResponseReader
from appliance.upstream.wire_request import BadAddress, parse_address, request_head

RECEIVE_BYTES = 64 * 1024

_ONE_SEND_BYTES = 256 * 1024  # head and body are joined up to here: one packet less, one copy more


class UpstreamStream:
    """The answer of a backend whose head has come. Made by `open_stream`, which closes it.

    Deadlines count the time spent waiting in `receive`, so a client that takes its time costs the backend nothing:
    `first_byte_s` from the connection to the first byte of the body, then `idle_s` from one piece of it to the next.
    """

    def __init__(self, connection: trio.abc.Stream, call: UpstreamCall, *, started: float) -> None:
        self._connection = connection
        self._call = call
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
        while True:
            piece = self._reader.take()
            if piece:
                self._enter_idle()
                return piece
            if self._reader.ended:
                return b""
            await self._read()

    async def read_all(self, max_bytes: int) -> bytes:
        """The rest of the body. Raises UpstreamFailed for more than `max_bytes`, and what `receive` raises."""
        if self.head.length is not None and self.head.length > max_bytes:
            raise self._failed(f"answered more than {max_bytes} bytes")
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
        """Send the request and wait for the head of the answer, under the opener's deadline."""
        started = trio.current_time()
        with suppress(trio.BrokenResourceError):  # it may have answered before it had read everything, 413 for one
            await self._send(head, self._call.body)
        while self._reader.head is None:
            await self._receive_some()
        self._left_s -= trio.current_time() - started

    async def aclose(self) -> None:
        """Close the connection at once; a backend that is still sending hears of it with its next packet."""
        self._reader.discard()
        await trio.aclose_forcefully(self._connection)

    async def _send(self, head: bytes, body: bytes) -> None:
        if len(body) <= _ONE_SEND_BYTES:
            await self._connection.send_all(head + body)
            return
        await self._connection.send_all(head)
        await self._connection.send_all(body)

    async def _read(self) -> None:
        started = trio.current_time()
        deadline = started + self._left_s
        with trio.CancelScope(deadline=min(deadline, self._end)):
            try:
                await self._receive_some()
            finally:
                self._left_s -= trio.current_time() - started
            return
        if deadline < self._end:
            raise timeout_error(self._call.backend_class, self._phase, self._limit_s)
        raise timeout_error(self._call.backend_class, "total", self._call.total_s)

    async def _receive_some(self) -> None:
        if self._reader.problem is not None:
            raise self._failed(self._reader.problem)
        try:
            data = await self._connection.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            raise self._failed(CUT_SHORT) from None
        if data:
            self._reader.feed(data)
        else:
            self._reader.feed_eof()

    def _enter_idle(self) -> None:
        self._phase = "idle"
        self._limit_s = self._left_s = self._call.idle_s

    def _failed(self, words: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._call.backend_class} {words}.", upstream=self._call.backend_class)


@asynccontextmanager
async def open_stream(
    call: UpstreamCall, connect: Connect, *, connect_s: float, observe: Callable[[str, float], None]
) -> AsyncIterator[UpstreamStream]:
    """Send the request and wait for the answer's head, whatever its status; the block reads the body.

    No scope is open inside the block, which may be left in another task. Raises UpstreamFailed, UpstreamTimeout.
    """
    stream = await _open(call, connect, connect_s)
    try:
        observe(call.backend_class, stream.latency_s)
        yield stream
    finally:
        await stream.aclose()


async def _open(call: UpstreamCall, connect: Connect, connect_s: float) -> UpstreamStream:
    try:
        address = parse_address(call.url)
        head = request_head(call, address)
    except BadAddress as problem:
        raise UpstreamFailed(f"{call.backend_class} {problem}.", upstream=call.backend_class) from None
    started = trio.current_time()
    with Deadlines(call.total_s) as deadlines:
        deadlines.enter_phase("connect", connect_s)
        stream = UpstreamStream(await dial(call.backend_class, connect, address), call, started=started)
        try:
            deadlines.enter_phase("first byte", call.first_byte_s)
            call.on_connected()
            await stream.ask(head)
        except BaseException:
            await stream.aclose()
            raise
        stream.latency_s = trio.current_time() - started
        return stream
    raise deadlines.error(call.backend_class)
