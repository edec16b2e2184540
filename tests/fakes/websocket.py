"""The server's end of a WebSocket, on wsproto: over a bare stream, or over a request that `tests.fakes.http` took in."""

from collections.abc import Callable

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, RejectConnection, TextMessage
from wsproto.events import Request as Upgrade

from tests.fakes.http import Request


class Peer:
    """`heard`: every event the client sent. `upgrade`: its request, once it has come."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.SERVER)
        self.heard: list[Event] = []
        self.upgrade: Upgrade | None = None

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
        """Send a message; `cut`: the packets that its bytes go out in."""
        event: Event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        for packet in cut(self.protocol.send(event)):
            await self.stream.send_all(packet)

    async def send_event(self, event: Event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def ping(self) -> None:
        await self.send_event(Ping(payload=b"there?"))

    async def close(self) -> None:
        await self.send_event(CloseConnection(code=1000))

    async def listen(self) -> None:
        """Hear the client until it has gone."""
        while True:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self.protocol.receive_data(data)
            self.heard.extend(self.protocol.events())

    async def _accept_what_came(self, with_it: bytes) -> None:
        for event in self.protocol.events():
            if isinstance(event, Upgrade):
                self.upgrade = event
        await self.stream.send_all(self.protocol.send(AcceptConnection()) + with_it)
