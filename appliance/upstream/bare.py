"""Bare connections: plain TCP with no layer between, its waits bounded by a number that one task looks at for all.

A cancel scope for each read costs more than the read. Deadlines here are seconds long: a quarter of one does not matter.
"""

import math
import select
import socket
from collections.abc import Awaitable, Callable

import trio

from appliance.upstream.coalescing import Coalescer

ALARM_S = 0.25  # so much later than asked for an alarm may ring


class NothingSent(trio.BrokenResourceError):
    """The connection was dead before it took a single byte: the other side has not heard of us."""


class Alarms:
    """Wakes those who wait for too long: whoever keeps them calls `ring` every ALARM_S, and rests while nobody waits."""

    def __init__(self) -> None:
        self._waiting: set[BareStream] = set()
        self._resting = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, stream: "BareStream") -> None:
        self._waiting.add(stream)
        if self._resting:
            self._resting.unpark_all()

    def stir(self) -> None:
        """There is something to look after again."""
        if self._resting:
            self._resting.unpark_all()

    async def rest(self) -> None:
        """Wait for that."""
        await self._resting.park()

    def discard(self, stream: "BareStream") -> None:
        self._waiting.discard(stream)

    def ring(self, now: float) -> None:
        """Wake everybody whose deadline has passed."""
        for stream in [stream for stream in self._waiting if stream.deadline <= now]:
            stream.wake()


class BareStream(trio.abc.Stream):
    """A connected TCP socket. `deadline`: until when the next wait may last, in trio's time; then TooSlowError is raised.

    Not every call is a checkpoint: what can be done at once is done at once, and a receive waits before it looks.
    Closing wakes whoever waits. A receive that is cancelled, or too slow, has lost nothing.
    """

    def __init__(self, connected: socket.socket, alarms: Alarms, coalescer: Coalescer) -> None:
        self._socket = connected
        self._coalescer = coalescer
        self._alarms = alarms
        self._late = False
        self._sent = False
        self._poll: select.poll | None = None  # made for who asks twice: connections that are kept
        self.deadline = math.inf

    def fileno(self) -> int:
        return self._socket.fileno()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises NothingSent, or BrokenResourceError for a connection that has taken bytes before."""
        rest = memoryview(data)
        await self._coalescer.line_up()
        while True:
            try:
                sent = self._socket.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise (trio.BrokenResourceError if self._sent else NothingSent)("the connection is broken") from error
            self._sent = self._sent or sent > 0
            if sent == len(rest):
                return
            rest = rest[sent:]
            await self._wait(trio.lowlevel.wait_writable)

    def is_quiet(self) -> bool:
        """Whether nothing has come that nobody waited for: no byte, no end, no error."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN | select.POLLRDHUP)
        return not self._poll.poll(0)

    def begin_request(self) -> None:
        """What has been sent so far belongs to an earlier request."""
        self._sent = False

    async def wait_send_all_might_not_block(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            await self._wait(trio.lowlevel.wait_readable)
            try:
                return self._socket.recv(max_bytes or 65_536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError("the connection is broken") from error

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once; may be called again."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def wake(self) -> None:
        """End the wait under way: it has taken too long."""
        self._late = True
        trio.lowlevel.notify_closing(self._socket)

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this connection was closed")
        if self.deadline <= trio.current_time():
            raise trio.TooSlowError
        self._late = False  # an alarm may have rung for a wait that was over already
        self._alarms.add(self)
        try:
            await wait(self._socket)
        except trio.ClosedResourceError:
            if not self._late:
                raise
            raise trio.TooSlowError from None
        finally:
            self._alarms.discard(self)
