"""Listener: accepts connections, keeps each one's trouble to itself, and stops in order. Knows streams, not HTTP."""

import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

import trio

from appliance.config.settings import Http1
from appliance.server.connection import hypercorn_conversations, import_hypercorn
from appliance.server.connection_lane import lane_conversations
from appliance.server.connection_link import Address, Link
from appliance.server.connection_requests import AsgiApp
from appliance.server.connection_transport import Transport
from appliance.server.listener_hangup import HangupWatcher
from appliance.server.listener_limits import CONTAINED, CrashReport, ListenerLimits, RefusalWriter
from appliance.upstream.coalescing import open_coalescer

# The one client is gone or was never there: the next one is served at once (accept(2)).
_ONE_CLIENT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    }
)
# No descriptors, no memory: it comes back when others end. Short, because a health probe may be waiting.
ACCEPT_PAUSE_S = 0.1
# How often connections are looked at whose deadlines are numbers; so much later than promised they may be.
SWEEP_S = 0.5
# How many at a time are told that there is no room; what comes on top is only closed.
MAX_TURNED_AWAY = 64


class Conversation(Protocol):
    """One connection's HTTP, whatever parses it. All the accept loop asks of it."""

    @property
    def waiting(self) -> bool:
        """Whether no request is running."""

    async def run(self) -> None:
        """Serve until the connection ends. Closes the link on every way out."""

    def sweep(self, now: float) -> None:
        """End what has taken too long; called twice a second."""

    def drain(self) -> None:
        """Take no further request."""

    def cancel_requests(self) -> None:
        """Cancel what runs."""


ConversationFactory = Callable[[Link], Conversation]


def _ignore(_change: int) -> None:
    return


class _Guests:
    """The connections of one listener, oldest first."""

    def __init__(self) -> None:
        self._present: dict[Link, Conversation] = {}
        self._left = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._present)

    def enter(self, link: Link, conversation: Conversation) -> None:
        self._present[link] = conversation

    def leave(self, link: Link) -> None:
        del self._present[link]
        if not self._present:
            self._left.unpark_all()

    def conversations(self) -> list[Conversation]:
        return list(self._present.values())

    def links(self) -> list[Link]:
        return list(self._present)

    def make_room(self) -> bool:
        """Send away the oldest connection without a running request: idle ones must not keep others out."""
        for link, conversation in self._present.items():
            if conversation.waiting and not link.gone:
                link.cut()
                return True
        return False

    async def wait_empty(self) -> None:
        while self._present:
            await self._left.park()


async def run_listener(
    app: AsgiApp,
    sockets: Sequence[socket.socket],
    *,
    limits: ListenerLimits,
    refuse: RefusalWriter,
    on_crash: CrashReport,
    stop: trio.Event,
    ssl_context: ssl.SSLContext | None = None,
    http1: Http1 = "lane",
    on_count: Callable[[int], None] = _ignore,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on listening sockets until `stop` is set and every connection has ended.

    `http1`: who speaks it, our own lane where a request is a plain one, or hypercorn's protocol always.
    `on_count` hears +1 and -1 for each connection that is served. Of a TLS context only ALPN is set here: HTTP/1.1 alone, because hypercorn's HTTP/2 has neither the deadlines nor the
    strictness that this listener is for. *Closes* the sockets, on stop at once.
    """
    if ssl_context is not None:
        ssl_context.set_alpn_protocols(["http/1.1"])
    if ssl_context is not None or http1 == "stock":
        import_hypercorn()
    with open_coalescer() as coalescer:
        if http1 == "lane":
            conversations = lane_conversations(app, limits, on_crash, coalescer)
        else:
            conversations = hypercorn_conversations(app, limits, on_crash)
        listener = _Listener(limits, refuse, on_crash, conversations, ssl_context, on_count)
        task_status.started()  # the sockets listen already: the kernel takes what comes until the loop does
        await listener.run(sockets, stop)


class _Listener:
    def __init__(
        self,
        limits: ListenerLimits,
        refuse: RefusalWriter,
        on_crash: CrashReport,
        make_conversation: ConversationFactory,
        ssl_context: ssl.SSLContext | None,
        on_count: Callable[[int], None],
    ) -> None:
        self._limits = limits
        self._refuse = refuse
        self._on_crash = on_crash
        self._make_conversation = make_conversation
        self._ssl_context = ssl_context
        self._on_count = on_count
        self._guests = _Guests()
        self._watcher = HangupWatcher()
        self._turned_away = 0

    async def run(self, sockets: Sequence[socket.socket], stop: trio.Event) -> None:
        with closing(self._watcher):
            async with trio.open_nursery() as service:
                service.start_soon(self._watcher.run)
                service.start_soon(self._sweep)
                async with trio.open_nursery() as connections:
                    await self._accept_until(stop, sockets, connections)
                    await self._drain()
                service.cancel_scope.cancel()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            for conversation in self._guests.conversations():
                conversation.sweep(now)

    async def _accept_until(
        self, stop: trio.Event, sockets: Sequence[socket.socket], connections: trio.Nursery
    ) -> None:
        listening = [trio.socket.from_stdlib_socket(one) for one in sockets]
        try:
            async with trio.open_nursery() as accepting:
                for one in listening:
                    accepting.start_soon(self._accept, one, connections)
                await stop.wait()
                accepting.cancel_scope.cancel()
        finally:
            for one in listening:
                one.close()

    async def _accept(self, listening: trio.socket.SocketType, connections: trio.Nursery) -> None:
        while True:
            try:
                accepted, address = await listening.accept()
            except OSError as error:
                if error.errno not in _ONE_CLIENT:
                    self._guests.make_room()  # its descriptor may be the one that is missing
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            self._admit(accepted, address, connections)

    def _admit(self, accepted: trio.socket.SocketType, address: tuple[str, int], connections: trio.Nursery) -> None:
        bare = socket.socket(accepted.family, accepted.type, accepted.proto, accepted.detach())
        try:
            link = self._open_link(bare, address)
        except OSError:
            bare.close()  # it has gone between accept and here
            return
        if len(self._guests) < self._limits.max_connections or self._guests.make_room():
            conversation = self._make_conversation(link)
            self._guests.enter(link, conversation)
            self._on_count(1)
            connections.start_soon(self._serve, link, conversation)
            return
        if link.tls or self._turned_away >= MAX_TURNED_AWAY:
            link.cut()
            return
        self._turned_away += 1
        connections.start_soon(self._turn_away, link)

    def _open_link(self, bare: socket.socket, address: tuple[str, int]) -> Link:
        bare.setblocking(False)
        accepted = trio.socket.from_stdlib_socket(bare)
        fd = bare.fileno()

        def close() -> None:
            self._watcher.forget(fd)
            accepted.close()

        transport = Transport(
            trio.SocketStream(accepted), close, write_stall_timeout_s=self._limits.write_stall_timeout_s
        )
        stream: trio.abc.Stream = transport
        if self._ssl_context is not None:
            stream = trio.SSLStream(transport, self._ssl_context, server_side=True)
        link = Link(
            transport,
            stream,
            limits=self._limits,
            refuse=self._refuse,
            peer=_plain(address),
            local=_plain(bare.getsockname()),
            socket=bare if self._ssl_context is None else None,
        )
        self._watcher.watch(fd, link.hang_up)
        return link

    async def _serve(self, link: Link, conversation: Conversation) -> None:
        """Serve one connection; whatever goes wrong in it stays here."""
        try:
            if await link.open():
                await conversation.run()
        except* CONTAINED as group:
            self._on_crash(group)
        finally:
            link.cut()
            self._guests.leave(link)
            self._on_count(-1)

    async def _turn_away(self, link: Link) -> None:
        try:
            await link.answer_and_close(503, "too_many_connections", "Too many connections; try again in a moment.")
            await link.take_leave(linger=True)
        except* CONTAINED as group:
            self._on_crash(group)
        finally:
            link.cut()
            self._turned_away -= 1

    async def _drain(self) -> None:
        """Let running requests end, then cancel them, then cut their connections."""
        for conversation in self._guests.conversations():
            conversation.drain()
        with trio.move_on_after(self._limits.drain_s):
            await self._guests.wait_empty()
        for conversation in self._guests.conversations():
            conversation.cancel_requests()
        with trio.move_on_after(self._limits.close_s):
            await self._guests.wait_empty()
        for link in self._guests.links():
            link.cut()


def _plain(address: tuple[str, int]) -> Address:
    """Host and port; an IPv4 client of an IPv6 socket is shown as the IPv4 client it is."""
    return (address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1])
