"""Requests of a connection: one ASGI call each, its client's messages, and what is said when it ends without an answer."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio

# What a connection holds of a body its application has not read: one receive, then TCP pushes back.
HELD_BYTES = 65_536
# A message costs this much beside its bytes; one-byte chunks must not make 64 KiB into megabytes.
MESSAGE_OVERHEAD_BYTES = 256

# An ASGI extension of this listener: a function that takes a callback. A task that waits for `http.disconnect` costs
# every request 40 us; this costs those whose client leaves.
CALL_WHEN_LEFT = "appliance.call_when_left"

# Another: a DirectCall, the shorter way where messages would only be packed to be unpacked.
DIRECT_CALL = "appliance.direct_call"

Message = dict[str, Any]
AsgiApp = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class DirectCall(Protocol):
    """One request as its connection has it, for who does not need messages. `scope`: the cancel scope it runs in.

    Whoever cancels that scope ends the connection with it.
    """

    scope: trio.CancelScope

    def take_body_nowait(self) -> bytes | None:
        """The whole body, if it has come and nobody has asked for a part of it; else it comes as messages."""

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer; `headers` say its length, and nothing else of its framing. Raises BadAnswer."""

    async def send_piece(self, body: bytes) -> None:
        """A piece of the body of an answer that `http.response.start` began; another message ends it."""


class RunningRequest:
    """What one ASGI call hears from its client.

    `closed` becomes true when the answer is complete or the client is gone; from then on `receive` says
    `http.disconnect` at once, whatever of the body is unread. `scope` is the call's cancel scope.
    """

    def __init__(self, asgi_scope: Mapping[str, Any]) -> None:
        self.asgi_scope = asgi_scope
        self.scope = trio.CancelScope()
        self.closed = False
        self.begun = False
        self._messages: deque[Message] = deque()
        self._held_bytes = 0
        self._on_left: Callable[[], None] | None = None
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()

    async def put(self, message: Message) -> None:
        """Hand over a piece of body, waiting while the application is behind; a disconnect never waits."""
        if message["type"] == "http.disconnect":
            self.close()
            return
        if self._messages:
            # Thousands of tiny chunks in one receive must not hold up the other connections.
            await trio.lowlevel.checkpoint()
        while self._held_bytes >= HELD_BYTES and not self.closed:
            await self._taken.park()
        if not self.closed:
            self._messages.append(message)
            self._held_bytes += len(message["body"]) + MESSAGE_OVERHEAD_BYTES
            self._arrived.unpark_all()

    async def receive(self) -> Message:
        """Return the next ASGI message."""
        await trio.lowlevel.checkpoint()
        while not self.closed and not self._messages:
            await self._arrived.park()
        if self.closed:
            return {"type": "http.disconnect"}
        message = self._messages.popleft()
        self._held_bytes -= len(message["body"]) + MESSAGE_OVERHEAD_BYTES
        self._taken.unpark_all()
        return message

    def call_when_left(self, on_left: Callable[[], None]) -> None:
        """Call back, once and synchronously, if the client leaves before its answer is complete; at once if it has."""
        if self.closed:
            on_left()
        else:
            self._on_left = on_left

    def close(self) -> None:
        """Let the call know that nobody is listening any more."""
        self.closed = True
        self._messages.clear()
        self._held_bytes = 0
        self._arrived.unpark_all()
        self._taken.unpark_all()

    def leave(self, grace_s: float) -> None:
        """The client is gone before the answer was complete: say so, and cancel the call if it has not ended in time."""
        if self.closed:
            return
        self.close()
        self.scope.deadline = trio.current_time() + grace_s
        if self._on_left is not None:
            self._on_left()
