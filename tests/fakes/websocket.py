"""The server's end of a WebSocket, on wsproto: over a bare stream, or over a request that `tests.fakes.http` took in."""

from collections.abc import AsyncIterator, Callable

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, RejectConnection, TextMessage
from wsproto.events import Request as Upgrade
from wsproto.utilities import LocalProtocolError

from tests.fakes.http import Request


class Peer:
    """`heard`: every event the client sent. `upgrade`: its request, once it has come."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.heard: list[Event] = []
        self.upgrade: Upgrade | None = None
        self._sending = trio.Lock()

    @classmethod
    async def over(cls, request: Request) -> "Peer":
        """Consent to the upgrade that this request asks for."""
        peer = cls(request.stream)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
        peer.protocol.initiate_upgrade_connection(headers, request.target)
        await peer._accept_what_came(b"")
        return peer

    async def accept(self, *, with_it: bytes = b"") -> None:
        """Wait for the request and consent; `with_it` goes out in the same packet."""
        while self.upgrade is None:
            self.protocol.receive_data(await self.stream.receive_some(65536))
            for event in self.protocol.events():
                if isinstance(event, Upgrade):
                    self.upgrade = event
        await self.stream.send_all(self.protocol.send(AcceptConnection()) + with_it)

    async def reject(self, status: int) -> None:
        self.protocol.receive_data(await self.stream.receive_some(65536))
        list(self.protocol.events())
        await self.stream.send_all(self.protocol.send(RejectConnection(status_code=status)))

    async def send(self, message: str | bytes, *, cut: Callable[[bytes], list[bytes]] = lambda data: [data]) -> None:
        """Send a message; `cut`: the packets that its bytes go out in. Raises trio.BrokenResourceError."""
        event: Event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        async with self._sending:
            try:
                packets = cut(self.protocol.send(event))
            except LocalProtocolError:  # the client has said goodbye
                raise trio.BrokenResourceError from None
            for packet in packets:
                await self.stream.send_all(packet)

    async def send_event(self, event: Event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def ping(self) -> None:
        await self.send_event(Ping(payload=b"there?"))

    async def close(self) -> None:
        await self.send_event(CloseConnection(code=1000))

    async def messages(self) -> AsyncIterator[str]:
        """The client's whole texts, until it has gone."""
        while await self._hear_some():
            for event in self.heard:
                if isinstance(event, TextMessage):
                    yield event.data
            self.heard.clear()

    async def listen(self) -> None:
        """Hear the client until it has gone."""
        while await self._hear_some():
            pass

    async def _hear_some(self) -> bool:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        if data:
            self.protocol.receive_data(data)
            self.heard.extend(self.protocol.events())
        return bool(data)

    async def _accept_what_came(self, with_it: bytes) -> None:
        for event in self.protocol.events():
            if isinstance(event, Upgrade):
                self.upgrade = event
        await self.stream.send_all(self.protocol.send(AcceptConnection()) + with_it)
