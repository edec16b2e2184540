"""Link: one client's bytes, the deadline its reader runs under, and the ways a connection ends. Knows no HTTP parser."""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import trio

from appliance.server.connection_transport import Transport
from appliance.server.listener_limits import ListenerLimits, Refusal, RefusalWriter

RECEIVE_BYTES = 65_536
# A client that got our last word is given this long to finish its own, so that a reset does not eat the answer.
LINGER_S = 2.0
# What one send hands to TLS at a time: a 50 MB answer is not encrypted in one go. A cancellation waits for one at most.
PIECE_BYTES = 65_536
# How long a cancelled application waits for a client to take what is being sent.
SHIELD_S = 1.0

Address = tuple[str, int]


def _nobody_asks() -> None:
    return


class Link:
    """What a conversation has of its client.

    `reading` is the scope the conversation reads in: its deadline says how long the client may take for what is due now, and
    it is cancelled when the connection ends. After `closing` nothing new is written, after `gone` there is no client;
    `when_gone` is called then, once. `socket`: the plain TCP socket itself, for who reads and writes it without a layer
    between; None where there is TLS.
    """

    def __init__(
        self,
        transport: Transport,
        stream: trio.abc.Stream,
        *,
        limits: ListenerLimits,
        refuse: RefusalWriter,
        peer: Address,
        local: Address,
        socket: socket.socket | None = None,
    ) -> None:
        self._transport = transport
        self._stream = stream
        self._refuse = refuse
        self._writing = trio.Lock()  # a 100 Continue from the reader, an answer from the application
        self.limits = limits
        self.peer = peer
        self.local = local
        self.tls = isinstance(stream, trio.SSLStream)
        self.reading = trio.CancelScope()
        self.closing = False
        self.socket = socket
        self.when_gone: Callable[[], None] = _nobody_asks

    @property
    def gone(self) -> bool:
        return self._transport.closed

    async def open(self) -> bool:
        """Finish the TLS handshake, if there is one; False when the client did not."""
        if not isinstance(self._stream, trio.SSLStream):
            return True
        with trio.move_on_after(self.limits.tls_handshake_timeout_s):
            try:
                await self._stream.do_handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            return True
        return False

    def allow(self, seconds: float) -> None:
        """Give the client this long, from now, for what is due."""
        self.reading.deadline = trio.current_time() + seconds

    async def receive(self) -> bytes:
        """Return what came, or nothing when nothing more will."""
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def write(self, data: bytes | memoryview) -> None:
        """Send, or drop the data when the connection ends or has ended."""
        if not data:  # the end of a message of known length
            return
        if self.closing or self.gone:
            await trio.lowlevel.checkpoint()
            return
        await self._write(data)

    async def answer_and_close(
        self, status: int, code: str, message: str, running: Mapping[str, Any] | None = None
    ) -> None:
        """Give the listener's own answer, if no other end has begun, and close."""
        if self.closing or self.gone:
            return
        self.closing = True
        await self._write(self._refuse(Refusal(status, code, message, self.peer[0], running)))
        self.reading.cancel()

    def close_soon(self) -> None:
        """Write no more; the conversation's reader takes leave of the client."""
        self.closing = True
        self.reading.cancel()

    def hang_up(self) -> None:
        """Close at once, because the client did or should.

        Half a close counts as a whole one, as it does for nginx and hypercorn: a client that shuts down its sending side
        after the request cannot be told from one that has gone. Only in the leave-taking is it awaited quietly.
        """
        if not self.closing:
            self.cut()

    def cut(self) -> None:
        """Close at once, whatever is under way, and drop what the client has not taken."""
        if self.gone:
            return
        self._transport.reset() if self._writing.locked() else self._transport.close()
        self._end_reading()

    async def take_leave(self, *, linger: bool) -> None:
        """Say that nothing more comes and close; to `linger` is to take what the client still sends for a short while.

        Closing on unread bytes makes the kernel send a reset, which can overtake our answer and eat it. Only a client
        that may still be sending is lingered for (nginx does the same).
        """
        with trio.move_on_after(LINGER_S):
            try:
                await self._stream_end()
                while linger and await self._transport.receive_some(RECEIVE_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
                pass
        self.cut()

    def _end_reading(self) -> None:
        self.reading.cancel()
        self.when_gone()

    async def _stream_end(self) -> None:
        async with self._writing:
            if self.tls:
                await self._stream.aclose()
                return
            await self._transport.send_eof()

    def _pieces(self, data: memoryview) -> Iterator[memoryview]:
        """A socket takes what it has room for, however much it is given; TLS encrypts everything first."""
        yield data[:PIECE_BYTES]
        step = PIECE_BYTES if self.tls else max(1, len(data))
        for start in range(PIECE_BYTES, len(data), step):
            yield data[start : start + step]

    async def _write(self, data: bytes | memoryview) -> None:
        """Write a whole message, or end the connection: after half a one nothing could be understood.

        A cancellation waits for the first piece, if the client takes it at once. So a stream that is cut short between
        two events can still carry one more; and who streams to a slow client can be cancelled all the same.
        """
        sent = False
        try:
            with trio.CancelScope(shield=True) as shield:  # the transport lowers it after SHIELD_S
                async with self._writing:
                    self._transport.shield_sends(shield, SHIELD_S)
                    for piece in self._pieces(memoryview(data)):
                        await self._stream.send_all(piece)
                        shield.shield = False
            sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if not sent and not self.gone:
                self._transport.reset()
                self._end_reading()
        await trio.lowlevel.checkpoint_if_cancelled()  # what waited behind the shield
