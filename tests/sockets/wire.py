"""Wire: one connection without a network, so that minutes of deadlines pass in no time."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import memory_stream_pair

from appliance.server.connection import hypercorn_conversations, import_hypercorn
from appliance.server.connection_lane import lane_conversations
from appliance.server.connection_link import Link
from appliance.server.connection_transport import Transport
from appliance.server.listener import SWEEP_S, Conversation
from appliance.server.listener_limits import ListenerLimits, Refusal, RefusalWriter
from appliance.upstream.coalescing import Coalescer
from tests.sockets.listening import App, speaker

import_hypercorn()  # or a thread would, and a mock clock does not wait for threads


@dataclass
class Wire:
    """The client's end of a connection, and what the server's end tells."""

    client: trio.abc.HalfCloseableStream
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
        """Close as a client does whose end the watcher sees: nobody watches here."""
        self.link.hang_up()


@asynccontextmanager
async def wired(app: App, limits: ListenerLimits | None = None, *, reads_nothing: bool = False) -> AsyncIterator[Wire]:
    limits = limits or ListenerLimits()
    refusals: list[Refusal] = []
    crashes: list[BaseException] = []

    def refuse(refusal: Refusal) -> bytes:
        refusals.append(refusal)
        return b"HTTP/1.1 %d Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % refusal.status

    client, link = (_socket_pair if speaker.get() == "lane" else _memory_pair)(limits, refuse, reads_nothing)
    if speaker.get() == "lane":
        make = lane_conversations(app, limits, crashes.append, Coalescer())
    else:
        make = hypercorn_conversations(app, limits, crashes.append)
    wire = Wire(client, link, make(link), refusals, crashes)

    async def run() -> None:
        await wire.conversation.run()
        wire.ended.set()

    async def sweep() -> None:
        while not wire.ended.is_set():
            await trio.sleep(SWEEP_S)
            wire.conversation.sweep(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(sweep)
        yield wire
        nursery.cancel_scope.cancel()
    link.cut()
    await client.aclose()


def _link(
    server: trio.abc.HalfCloseableStream,
    close: Callable[[], None],
    limits: ListenerLimits,
    refuse: RefusalWriter,
    bare: socket.socket | None,
) -> Link:
    transport = Transport(server, close, write_stall_timeout_s=limits.write_stall_timeout_s)
    peer, local = ("192.0.2.7", 4711), ("192.0.2.1", 8800)
    return Link(transport, transport, limits=limits, refuse=refuse, peer=peer, local=local, socket=bare)


def _socket_pair(
    limits: ListenerLimits, refuse: RefusalWriter, reads_nothing: bool
) -> tuple[trio.abc.HalfCloseableStream, Link]:
    """The lane reads and writes a socket itself. What the client does not read fills the kernel's buffer soon enough."""
    ours, bare = socket.socketpair()
    bare.setblocking(False)
    server = trio.SocketStream(trio.socket.from_stdlib_socket(bare))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return client, _link(server, server.socket.close, limits, refuse, bare)


def _memory_pair(
    limits: ListenerLimits, refuse: RefusalWriter, reads_nothing: bool
) -> tuple[trio.abc.HalfCloseableStream, Link]:
    client, server = memory_stream_pair()

    async def never() -> None:
        await trio.sleep_forever()

    def close() -> None:
        server.send_stream.close()
        server.receive_stream.close()

    if reads_nothing:
        server.send_stream.send_all_hook = never
    return client, _link(server, close, limits, refuse, None)
