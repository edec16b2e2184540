"""A small HTTP/1.1 server on h11: one handler for every request, and a hand on the bare connection for mischief."""

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio

RST_LINGER = struct.pack("ii", 1, 0)  # close() sends RST instead of FIN


class Changes:
    """Lets a test wait for a state without polling for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            await self._event.wait()


@dataclass
class Statistics:
    """`connections` open now; `hangups`: clients that left before their answer (time.monotonic-like, trio's clock)."""

    connections: int = 0
    connections_ever: int = 0
    requests: int = 0
    hangups: list[float] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    async def until_no_connections(self) -> None:
        await self.changes.until(lambda: not self.connections)


@dataclass
class Request:
    """One request that came in whole, and the ways to answer it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    stream: trio.SocketStream
    connection: h11.Connection
    statistics: Statistics

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)

    async def respond(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        all_headers = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
        await self._send(h11.Response(status_code=status, headers=list(all_headers.items()), reason=b"OK"))
        if self.method != "HEAD":
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def respond_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        await self.respond(status, json.dumps(value).encode(), headers)

    async def send_raw(self, data: bytes) -> None:
        """Put these bytes on the wire as they are; the connection is closed after the handler."""
        await self.stream.send_all(data)

    async def hung_up(self) -> None:
        """Wait until the client has closed or reset its connection; what it sends until then is thrown away."""
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(65536):
                pass
        self.statistics.hangups.append(trio.current_time())

    async def hung_up_instead(self) -> None:
        """The same while it is answered: a next request that comes on the connection is left for who reads it."""
        if not isinstance(self.stream, trio.SocketStream):
            await self.hung_up()
            return
        await trio.lowlevel.wait_readable(self.stream.socket)
        if not self.is_hung_up():
            await trio.sleep_forever()
        self.statistics.hangups.append(trio.current_time())

    def is_hung_up(self) -> bool:
        """Say whether the client has closed or reset already, whatever else waits to be read."""
        try:
            return self.stream.socket._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""  # type: ignore[attr-defined] # trio has no synchronous peek
        except BlockingIOError:
            return False
        except OSError:
            return True

    def reset(self) -> None:
        """Break the connection off with RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_LINGER)
        self.stream.socket.close()

    async def _send(self, event: h11.Event) -> None:
        data = self.connection.send(event)
        if data:
            await self.stream.send_all(data)


Handler = Callable[[Request], Awaitable[None]]
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, OSError)


@dataclass
class Server:
    base_url: str
    port: int
    statistics: Statistics
    nursery: trio.Nursery

    def die(self) -> None:
        """Close the listener and every connection, as a process that is killed."""
        self.nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_server(
    handler: Handler, *, ssl_context: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Server]:
    """Serve on a free loopback port until the block ends."""
    statistics = Statistics()
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(_run_server, handler, statistics, ssl_context, port)
        yield server
        nursery.cancel_scope.cancel()


async def _run_server(
    handler: Handler,
    statistics: Statistics,
    ssl_context: ssl.SSLContext | None,
    port: int,
    task_status: trio.TaskStatus[Server],
) -> None:
    async with trio.open_nursery() as nursery:
        listener = (await trio.open_tcp_listeners(port, host="127.0.0.1", backlog=1024))[0]
        bound = listener.socket.getsockname()[1]
        listeners: list[Any] = [trio.SSLListener(listener, ssl_context) if ssl_context else listener]
        connections = partial(_serve_connection, handler, statistics)
        await nursery.start(partial(trio.serve_listeners, connections, listeners, handler_nursery=nursery))
        scheme = "https" if ssl_context else "http"
        task_status.started(Server(f"{scheme}://127.0.0.1:{bound}", bound, statistics, nursery))


async def _serve_connection(handler: Handler, statistics: Statistics, stream: trio.SocketStream) -> None:
    statistics.connections += 1
    statistics.connections_ever += 1
    statistics.changes.notify()
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            request = await _receive(connection, stream, statistics)
            if request is None:
                return
            statistics.requests += 1
            await handler(request)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except GONE:
        return
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await trio.aclose_forcefully(stream)
        statistics.connections -= 1
        statistics.changes.notify()


async def _receive(connection: h11.Connection, stream: trio.SocketStream, statistics: Statistics) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            break
        else:
            return None
    return Request(
        method=head.method.decode(),
        target=head.target.decode(),
        headers=[(name.decode(), value.decode("latin-1")) for name, value in head.headers],
        body=bytes(body),
        stream=stream,
        connection=connection,
        statistics=statistics,
    )
