"""A call in the lane: what one ASGI call hears from its client and says to it, without a task or a queue between."""

from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

import trio

from appliance.server.connection_answer import AnswerFraming
from appliance.server.connection_link import Address
from appliance.server.connection_requests import CALL_WHEN_LEFT, DIRECT_CALL, Headers, Message
from appliance.server.strict import PlainHead

_ASGI = {"spec_version": "2.1", "version": "3.0"}
_DISCONNECT = "http.disconnect"
# An application that sends without ever waiting lets the others run after so many pieces.
_SENDS_IN_A_ROW = 16


class Lane(Protocol):
    """What a call needs of its connection."""

    async def read_body(self, left: int) -> bytes:
        """What has come of the body, up to `left` bytes; nothing when nothing more will."""

    def take_body_nowait(self, left: int) -> bytes | None:
        """The whole of the body, if all its `left` bytes have come."""

    async def line_up(self) -> None:
        """See `Coalescer`."""

    async def write(self, data: bytes) -> None:
        """Send, or drop the data where there is nobody."""

    def is_last(self, left: int) -> bool:
        """Whether the connection ends with the answer that begins now, `left` bytes of the request unread."""

    def note_answered(self) -> None:
        """The answer is complete."""


class LaneCall:
    """One request and its answer. `closed`: the answer is complete or the client has gone, as for a RunningRequest.

    `left`: what of the request's body the application has not taken. `begun`: bytes of the answer have been sent.
    `scope`: the cancel scope it runs in.
    """

    def __init__(self, lane: Lane, scope: trio.CancelScope, *, head_only: bool, length: int) -> None:
        self._lane = lane
        self._framing = AnswerFraming(head_only=head_only)
        self._body_due = True
        self._piece = b""
        self._sends = 0
        self._on_left: Callable[[], None] | None = None
        self._left_parking: trio.lowlevel.ParkingLot | None = None
        self.asgi_scope: dict[str, Any] = {}
        self.scope = scope
        self.left = length
        self.closed = False
        self.begun = False

    @property
    def last(self) -> bool:
        return self._framing.last

    async def receive(self) -> Message:
        """Return the next ASGI message."""
        if self._body_due and await self._read_body():
            piece, self._piece = self._piece, b""
            return {"type": "http.request", "body": piece, "more_body": self._body_due}
        while not self.closed:
            self._left_parking = self._left_parking or trio.lowlevel.ParkingLot()
            await self._left_parking.park()
        await trio.lowlevel.checkpoint()
        return {"type": _DISCONNECT}

    def take_body_nowait(self) -> bytes | None:
        """See `DirectCall`."""
        if self.closed or not self._body_due:
            return None
        body = self._lane.take_body_nowait(self.left) if self.left else b""
        if body is not None:
            self.left, self._body_due = 0, False
        return body

    async def _read_body(self) -> bool:
        """Read the next piece; whether there is one for an application that is still heard."""
        if self.left and not self.closed:
            self._piece = await self._lane.read_body(self.left)
            self.left -= len(self._piece)
        if self.closed or (self.left and not self._piece):
            return False
        self._body_due = self.left > 0
        await trio.lowlevel.checkpoint_if_cancelled()
        return True

    async def send(self, message: Message) -> None:
        """Pass a message to the client; into the void when there is none any more. Raises BadAnswer."""
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        framing = self._framing
        if message["type"] == "http.response.start":
            framing.begin(message["status"], message["headers"], last=self._lane.is_last(self.left))
            if not framing.waits_for_body:
                await self._write(framing.take_head())
            return
        body = message.get("body", b"")
        if message.get("more_body", False):
            await self.send_piece(body)
            return
        await self._write(framing.frame(body, more=False))
        self._end()

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """See `DirectCall`."""
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        first, rest = self._framing.whole(status, headers, body, last=self._lane.is_last(self.left))
        await self._lane.line_up()
        self.begun = True
        await self._lane.write(first)
        if rest:
            await self._lane.write(rest)
        if not self.closed:
            self.close()
            self._lane.note_answered()

    async def send_piece(self, body: bytes) -> None:
        """See `DirectCall`."""
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        await self._write(self._framing.frame(body, more=True))
        self._sends += 1
        if self._sends % _SENDS_IN_A_ROW:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def call_when_left(self, on_left: Callable[[], None]) -> None:
        """Call back, once and synchronously, if the client leaves before its answer is complete; at once if it has."""
        if self.closed:
            on_left()
        else:
            self._on_left = on_left

    def close(self) -> None:
        """Nobody is listening any more."""
        self.closed = True
        if self._left_parking is not None:
            self._left_parking.unpark_all()

    def leave(self, grace_s: float) -> None:
        """The client is gone before the answer was complete: say so, and cancel the call if it has not ended in time."""
        if self.closed:
            return
        self.close()
        self.scope.deadline = trio.current_time() + grace_s
        if self._on_left is not None:
            self._on_left()

    def _end(self) -> None:
        self._framing.check_end()
        if not self.closed:
            self.close()
            self._lane.note_answered()

    async def _write(self, data: bytes) -> None:
        if data:
            self.begun = True
            await self._lane.write(data)


def make_scope(head: PlainHead, call: LaneCall, *, client: Address, server: Address) -> dict[str, Any]:
    """The ASGI scope of a call, with what the lane offers beside ASGI."""
    path, _, query = head.target.partition(b"?")
    text = path.decode("ascii")
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": _ASGI,
        "method": head.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(text) if "%" in text else text,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": head.fields,
        "client": client,
        "server": server,
        "state": {},
        "extensions": {CALL_WHEN_LEFT: call.call_when_left, DIRECT_CALL: call},
    }
