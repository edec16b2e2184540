"""A WebSocket to a backend (RFC 6455): whole messages out and in, under a cap, on a connection of its own.

wsproto knows the protocol; this file moves the bytes. No extension is offered, so nothing is compressed; no Origin is
sent, which image servers take for a web page's.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import trio
from h11 import LocalProtocolError as BadHeader
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.deadlines import timeout_error
from appliance.upstream.stream_connect import Connect, dial
from appliance.upstream.websocket_call import WebSocketCall
from appliance.upstream.wire_request import Address, BadAddress, parse_address

RECEIVE_BYTES = 64 * 1024

_REPLY_S = 2.0  # a pong or a close is a hundred bytes: one that does not go out has nobody at the other end
_USER_AGENT = ("User-Agent", "appliance")
_GONE = "closed its WebSocket"


class WebSocket:
    """An open WebSocket. Made by `open_websocket`, which closes it. One task receives; any number send."""

    def __init__(self, connection: trio.abc.Stream, call: WebSocketCall) -> None:
        self._connection = connection
        self._call = call
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._sending = trio.Lock()
        self._messages: deque[str | bytes] = deque()
        self._pieces: list[str] | list[bytes] = []
        self._size = 0
        self._problem: str | None = None

    async def receive(self) -> str | bytes:
        """The next message, text or binary. Waits as long as the caller lets it; one that is cancelled loses nothing.

        Raises UpstreamFailed where the server closed, broke off, broke the protocol or sent more than the cap; whoever
        asks again is told again.
        """
        while not self._messages:
            if self._problem is not None:
                raise self._failed(self._problem)
            await self._take(await self._events())
        return self._messages.popleft()

    async def send(self, message: str | bytes) -> None:
        """Send one message. Raises UpstreamFailed. One that is cancelled half sent ends the connection."""
        event: Event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self._send(event)

    async def shake_hands(self, address: Address) -> None:
        """Ask for the upgrade and wait for the server's consent, under the opener's deadline."""
        headers = [_USER_AGENT, *self._call.headers.items()]
        if address.authorization is not None:
            headers.append(("Authorization", address.authorization))
        encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        try:
            data = self._protocol.send(Request(host=address.authority, target=address.target, extra_headers=encoded))
        except (BadHeader, UnicodeError):
            raise self._failed("cannot be sent this request: a header holds what no header can") from None
        await self._send_bytes(data)
        events: list[Event] = []
        while not events:
            events = await self._events()
        self._check_consent(events[0])
        await self._take(events[1:])  # the first message may come in the same packet

    async def aclose(self) -> None:
        """Say goodbye if that does not wait, and close. The server's own goodbye is not waited for."""
        with suppress(UpstreamFailed), trio.move_on_after(_REPLY_S, shield=True):
            if self._problem is None and not self._sending.locked():
                await self._send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
        await trio.aclose_forcefully(self._connection)

    def _check_consent(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            return
        if isinstance(event, RejectConnection):
            raise UpstreamFailed(
                f"{self._call.backend_class} answered {event.status_code} to a WebSocket.",
                upstream=self._call.backend_class,
                upstream_status=event.status_code,
            )
        raise self._failed("answered something that is not a WebSocket")

    async def _take(self, events: Iterable[Event]) -> None:
        """Answer pings and closes, put messages together. Is not interrupted: a cancelled receive loses nothing."""
        for event in events:
            if self._problem is not None:
                return
            if isinstance(event, Ping):
                await self._reply(event.response())
            elif isinstance(event, CloseConnection):
                await self._reply(event.response())
                self._problem = _GONE
            elif isinstance(event, TextMessage | BytesMessage):
                await self._gather(event)

    async def _events(self) -> list[Event]:
        try:
            data = await self._connection.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self._problem = "broke off its WebSocket"
            raise self._failed(self._problem)
        try:
            self._protocol.receive_data(bytes(data))
            return list(self._protocol.events())
        except (RemoteProtocolError, UnicodeError):  # UnicodeError: a handshake's header that is not text
            self._problem = "answered something that is not a WebSocket"
            raise self._failed(self._problem) from None

    async def _gather(self, event: TextMessage | BytesMessage) -> None:
        """Put the pieces of a message together, a frame may come in several and so may a message."""
        self._size += len(event.data)
        if self._size > self._call.max_message_bytes:
            await self._reply(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
            self._problem = f"sent a message of more than {self._call.max_message_bytes} bytes"
            return
        if event.data:  # a stream of empty pieces is not to grow anything
            self._pieces.append(event.data)  # type: ignore[arg-type] # the protocol does not mix kinds in one message
        if event.message_finished:
            empty = "" if isinstance(event, TextMessage) else b""
            self._messages.append(empty.join(self._pieces))  # type: ignore[arg-type] # as above
            self._pieces = []
            self._size = 0

    async def _reply(self, event: Event) -> None:
        """Answer without being cut off in the middle: half a frame would spoil every later one."""
        with suppress(UpstreamFailed), trio.move_on_after(_REPLY_S, shield=True):
            await self._send(event)

    async def _send(self, event: Event) -> None:
        async with self._sending:
            if self._problem is not None:
                raise self._failed(self._problem)
            try:
                data = self._protocol.send(event)
            except LocalProtocolError:
                raise self._failed(_GONE) from None
            await self._send_bytes(data)

    async def _send_bytes(self, data: bytes) -> None:
        try:
            await self._connection.send_all(data)
        except trio.BrokenResourceError:
            self._problem = "broke off its WebSocket"
            raise self._failed(self._problem) from None
        except trio.Cancelled:
            self._problem = "was left in the middle of a message"
            raise

    def _failed(self, words: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._call.backend_class} {words}.", upstream=self._call.backend_class)


@asynccontextmanager
async def open_websocket(call: WebSocketCall, connect: Connect, *, connect_s: float) -> AsyncIterator[WebSocket]:
    """Connect and shake hands; leaving closes the connection at once. No scope is open inside the block.

    Raises UpstreamTimeout naming the deadline, UpstreamFailed for a server that cannot be reached or does not consent
    (`status` among its fields where it said one).
    """
    websocket = await _open(call, connect, connect_s)
    try:
        yield websocket
    finally:
        await websocket.aclose()


async def _open(call: WebSocketCall, connect: Connect, connect_s: float) -> WebSocket:
    try:
        address = parse_address(call.url)
    except BadAddress as problem:
        raise UpstreamFailed(f"{call.backend_class} {problem}.", upstream=call.backend_class) from None
    websocket = WebSocket(await dial(call.backend_class, connect, address, connect_s), call)
    try:
        with trio.move_on_after(call.handshake_s):
            call.on_connected()
            await websocket.shake_hands(address)
            return websocket
    except BaseException:
        await websocket.aclose()
        raise
    await websocket.aclose()
    raise timeout_error(call.backend_class, "first byte", call.handshake_s)
