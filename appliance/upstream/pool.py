"""Pool: connections to backends that are between two calls, and new ones where there is none.

Which request may be sent again, once, on a new connection? One that went out on a kept connection that took no byte of
it, or that ended at once (half a second) without a byte of an answer: then the backend had closed it before it heard of
us. nginx and Go do not do the latter for a POST, because it might run twice; the calls that share connections ask a model,
which changes nothing, and a client that gets a 502 asks again itself. A backend that died over its work is not asked
twice. So that it hardly comes to that, connections are kept for a second: servers close idle ones after two (gunicorn) or
five (uvicorn, node, llama.cpp), and one that has closed is seen before it is used.
"""

import select
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from appliance.upstream.bare import ALARM_S, Alarms, BareStream
from appliance.upstream.stream_connect import Connect
from appliance.upstream.wire_request import Address

KEPT_S = 1.0
MAX_KEPT = 256  # of all backends together: more than are in use at a time on a busy gateway

_Place = tuple[str, str, int]


class Pool:
    """Gives out connections and takes them back. Build with `open_pool`; safe for any number of tasks."""

    def __init__(self, connect: Connect, alarms: Alarms) -> None:
        self._connect = connect
        self._alarms = alarms
        self._kept: defaultdict[_Place, list[tuple[float, trio.abc.Stream]]] = defaultdict(list)
        self._count = 0
        self._open = 0

    def __repr__(self) -> str:
        return f"<Pool in_use={self._open} kept={self._count}>"

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._count

    def take_nowait(self, address: Address) -> trio.abc.Stream | None:
        """A connection that was kept and is still there; the newest, so that the others may grow old and go."""
        kept = self._kept.get(_place(address))
        oldest = trio.current_time() - KEPT_S
        while kept:
            since, stream = kept.pop()
            self._count -= 1
            if since >= oldest and _is_quiet(stream):
                self._open += 1
                if isinstance(stream, BareStream):
                    stream.begin_request()
                return stream
            close_nowait(stream)
        return None

    async def connect(self, address: Address) -> trio.abc.Stream:
        """A new connection. Raises OSError, trio.BrokenResourceError, UnicodeError."""
        stream = await self._connect(address)
        self._open += 1
        return stream

    def keep_nowait(self, address: Address, stream: trio.abc.Stream) -> None:
        """Take back a connection that is ready for another request."""
        self._open -= 1
        if self._count >= MAX_KEPT or _fileno(stream) < 0:
            close_nowait(stream)
            return
        self._kept[_place(address)].append((trio.current_time(), stream))
        self._count += 1
        self._alarms.stir()

    def close_nowait(self, stream: trio.abc.Stream) -> None:
        """Take back a connection that is done for: it is closed at once, which aborts whatever runs on it."""
        self._open -= 1
        close_nowait(stream)

    def sweep(self, now: float) -> None:
        """Close what nobody has wanted for a while."""
        for place, kept in list(self._kept.items()):
            young = [entry for entry in kept if entry[0] >= now - KEPT_S]
            for entry in kept[: len(kept) - len(young)]:
                close_nowait(entry[1])
            self._count -= len(kept) - len(young)
            if young:
                self._kept[place] = young
            else:
                del self._kept[place]


@asynccontextmanager
async def open_pool(connect: Connect, alarms: Alarms) -> AsyncIterator[Pool]:
    """Open a pool, and look after it and the alarms of its connections."""
    pool = Pool(connect, alarms)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look_after, pool, alarms)
            try:
                yield pool
            except BaseException as error:  # noqa: ASYNC103, BLE001 -- raised again below, not in a group: not ours
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        failure = None  # it holds this frame, which holds it
        pool.sweep(trio.current_time() + 2 * KEPT_S)


async def _look_after(pool: Pool, alarms: Alarms) -> None:
    while True:
        if pool.is_empty and not alarms:
            await alarms.rest()  # an idle gateway wakes for nothing
        await trio.sleep(ALARM_S)
        now = trio.current_time()
        alarms.ring(now)
        pool.sweep(now)


def close_nowait(stream: trio.abc.Stream) -> None:
    """Close without a farewell."""
    if isinstance(stream, BareStream):
        stream.close()
    elif isinstance(stream, trio.SSLStream):
        close_nowait(stream.transport_stream)
    elif isinstance(stream, trio.SocketStream):
        stream.socket.close()
    elif isinstance(stream, trio.StapledStream):
        stream.send_stream.close()
        stream.receive_stream.close()


def _place(address: Address) -> _Place:
    return address.scheme, address.host, address.port


def _is_quiet(stream: trio.abc.Stream) -> bool:
    """Whether nothing has come since: no end, no error, no byte that nobody asked for."""
    if isinstance(stream, BareStream):
        return stream.is_quiet()
    poll = select.poll()
    poll.register(_fileno(stream), select.POLLIN | select.POLLRDHUP)
    return not poll.poll(0)


def _fileno(stream: trio.abc.Stream) -> int:
    if isinstance(stream, BareStream):
        return stream.fileno()
    if isinstance(stream, trio.SSLStream) and isinstance(stream.transport_stream, trio.SocketStream):
        return stream.transport_stream.socket.fileno()
    return -1
