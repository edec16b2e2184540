"""Wire: one connection in memory, so that minutes of deadlines pass in no time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import memory_stream_pair

from appliance.server.connection import hypercorn_conversations
from appliance.server.connection_link import Link
from appliance.server.connection_transport import Transport
from appliance.server.listener import Conversation
from appliance.server.listener_limits import ListenerLimits, Refusal
from tests.sockets.listening import App

MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


@dataclass
class Wire:
    """The client's end of a connection, and what the server's end tells."""

    client: MemoryStream
    link: Link
    conversation: Conversation
    refusals: list[Refusal] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    async def read(self) -> bytes:
        """Read until the server closes."""
        got = b""
        while data := await self.client.receive_some():
            got += data
        return got

    async def read_until(self, mark: bytes) -> bytes:
        got = b""
        while mark not in got:
            data = await self.client.receive_some()
            assert data, got
            got += data
        return got

    def hang_up(self) -> None:
        """Close as a client does whose end the watcher sees: memory has no EPOLLRDHUP."""
        self.client.send_stream.close()
        self.link.hang_up()


@asynccontextmanager
async def wired(app: App, limits: ListenerLimits | None = None, *, reads_nothing: bool = False) -> AsyncIterator[Wire]:
    limits = limits or ListenerLimits()
    client, server = memory_stream_pair()
    if reads_nothing:
        client, server = _full_pair()
    refusals: list[Refusal] = []
    crashes: list[BaseException] = []

    def refuse(refusal: Refusal) -> bytes:
        refusals.append(refusal)
        return b"HTTP/1.1 %d Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % refusal.status

    def close() -> None:
        server.send_stream.close()
        server.receive_stream.close()

    transport = Transport(server, close, write_stall_timeout_s=limits.write_stall_timeout_s)
    link = Link(transport, transport, limits=limits, refuse=refuse, peer=("192.0.2.7", 4711), local=("192.0.2.1", 8800))
    wire = Wire(client, link, hypercorn_conversations(app, limits, crashes.append)(link), refusals, crashes)

    async def run() -> None:
        await wire.conversation.run()
        wire.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield wire
        nursery.cancel_scope.cancel()


def _full_pair() -> tuple[MemoryStream, MemoryStream]:
    """A pair whose client never takes a byte: the server's sends wait for ever."""
    client, server = memory_stream_pair()

    async def never() -> None:
        await trio.sleep_forever()

    server.send_stream.send_all_hook = never
    return client, server
