"""Transport: a byte stream that notices a reader who takes nothing, and that can be closed without waiting."""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

import trio

# on, 0 s: the kernel drops what is unsent and resets, instead of keeping a stalled reader's data for minutes.
_RESET = struct.pack("ii", 1, 0)


class WriteStalled(trio.BrokenResourceError):
    """The other side took no byte for the whole deadline."""


class Transport(trio.abc.HalfCloseableStream):
    """What carries one connection's bytes, below TLS where there is TLS.

    `close_inner` closes the inner stream at once; it may be called again. `aclose` only ends the sending side: TLS calls
    it after its farewell, and the connection wants to take what the client still sends. `close` really closes.
    """

    def __init__(
        self, inner: trio.abc.HalfCloseableStream, close_inner: Callable[[], None], *, write_stall_timeout_s: float
    ) -> None:
        self._inner = inner
        self._close_inner = close_inner
        self._write_stall_timeout_s = write_stall_timeout_s
        self._shield: trio.CancelScope | None = None
        self._shield_until = 0.0
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    def shield_sends(self, shield: trio.CancelScope, seconds: float) -> None:
        """Keep a shield up for the next sends, until the reader has made them wait this long."""
        self._shield = shield
        self._shield_until = trio.current_time() + seconds

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, with a deadline that starts anew whenever the other side takes something.

        Raises WriteStalled. A slow but steady reader may take as long as it likes.
        """
        rest = memoryview(data)
        while rest:
            shielded = self._shield is not None and self._shield.shield
            stalled_at = trio.current_time() + self._write_stall_timeout_s
            with trio.move_on_at(min(stalled_at, self._shield_until) if shielded else stalled_at) as scope:
                rest = rest[await self._send_some(rest) :]
            if not scope.cancelled_caught:
                continue
            if not shielded or self._shield is None:
                raise WriteStalled(f"the reader took nothing for {self._write_stall_timeout_s} s")
            self._shield.shield = False

    async def _send_some(self, data: memoryview) -> int:
        if not isinstance(self._inner, trio.SocketStream):
            await self._inner.send_all(data)
            return len(data)
        try:
            return await self._inner.socket.send(data)
        except OSError as error:
            raise trio.BrokenResourceError("the connection is broken") from error

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        await self.send_eof()

    def close(self) -> None:
        """Close at once; whoever waits on this transport is woken with ClosedResourceError."""
        if not self.closed:
            self.closed = True
            self._close_inner()

    def reset(self) -> None:
        """Close at once and drop what the client has not taken."""
        if not self.closed and isinstance(self._inner, trio.SocketStream):
            with suppress(OSError):  # already dead: there is nothing left to drop
                self._inner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()
