"""An in-memory ASGI client: calls an app as the listener does, and can hang up at any moment.

`call` makes a whole exchange. `open_call` holds a request open: feed the body, read chunks as they come, disconnect,
wait for the app to end. Events come in the order and shape of hypercorn 0.18 (protocol/http_stream.py): every piece of
the request body is followed by more, then an empty last one; `http.disconnect` comes once the client is gone or the
answer is complete; what an app sends to a client that is gone is dropped without an error.
"""

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import trio

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = Mapping[str, str] | Iterable[tuple[str, str]]

END_TIMEOUT_S = 10.0  # an app that is still running this long after the client left hangs

_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. Header names are in lower case, in the order sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of this header, None if absent. Raises AssertionError if it was sent twice."""
        return _one_header(self.headers, name)

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request in flight. Made by `open_call`, which ends it."""

    def __init__(self, scope: Mapping[str, Any], *, window: float) -> None:
        self.scope = scope
        self.app_done = trio.Event()
        self._events_w, self._events_r = trio.open_memory_channel[Message](math.inf)
        self._chunks: deque[bytes] = deque()
        self._window = window  # chunks that the client's buffers take unread
        self._moved = trio.lowlevel.ParkingLot()
        self._gone = False
        self._complete = False
        self._start: Message | None = None
        self._sent_bytes = 0
        self._error: BaseException | None = None

    # The client's side.

    def send_body(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        self._events_w.send_nowait({"type": "http.request", "body": data, "more_body": True})

    def end_body(self) -> None:
        """The request is complete."""
        self._events_w.send_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def started(self) -> None:
        """Wait for the head of the answer. Raises the app's error, AssertionError if it ends without an answer."""
        await self._until(lambda: self._start is not None)
        if self._start is None:
            self._raise_error()
            raise AssertionError("the app ended without an answer")

    @property
    def status(self) -> int:
        assert self._start is not None, "no answer yet: await started()"
        return int(self._start["status"])

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        assert self._start is not None, "no answer yet: await started()"
        pairs = self._start.get("headers", ())
        return tuple((bytes(name).decode("ascii").lower(), bytes(value).decode("latin-1")) for name, value in pairs)

    def header(self, name: str) -> str | None:
        """The one value of this header, None if absent. Raises AssertionError if it was sent twice."""
        return _one_header(self.headers, name)

    async def chunk(self) -> bytes | None:
        """Take the next piece of the answer's body, None at its end. Raises what the app raised in between."""
        await self._until(lambda: bool(self._chunks) or self._complete)
        if self._chunks:
            taken = self._chunks.popleft()
            self._moved.unpark_all()
            return taken
        if not self._complete:
            self._raise_error()
        return None

    async def body(self) -> bytes:
        """Take what is left of the answer's body."""
        pieces = []
        while (piece := await self.chunk()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    @property
    def complete(self) -> bool:
        """The app sent its last piece, and the client was there to take it."""
        return self._complete

    def disconnect(self) -> None:
        """Hang up: the app hears of it, and whatever it sends from now on is dropped."""
        if self._gone or self._complete:
            return
        self._gone = True
        self._events_w.send_nowait({"type": "http.disconnect"})
        self._moved.unpark_all()

    async def finished(self) -> None:
        """Wait until the app has returned. Raises its error, AssertionError if it never ends."""
        with trio.move_on_after(END_TIMEOUT_S):
            await self.app_done.wait()
            self._raise_error()
            return
        raise AssertionError(f"the app is still running {END_TIMEOUT_S} s later")

    # The app's side.

    async def run(self, app: App) -> None:
        """Run the app to its end. Keeps its error for the test, as a listener keeps it from other connections."""
        try:
            await app(self.scope, self._events_r.receive, self._send)
        except Exception as error:
            self._error = error
        finally:
            self.app_done.set()
            self._moved.unpark_all()

    async def _send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert self._start is None, "a second http.response.start"
            if not self._gone:
                self._start = message
                self._moved.unpark_all()
            return
        assert message["type"] == "http.response.body", message["type"]
        assert self._start is not None or self._gone, "http.response.body before http.response.start"
        assert not self._complete, "http.response.body after the last one"
        await self._take(bytes(message.get("body", b"")), more=message.get("more_body", False))

    async def _take(self, data: bytes, *, more: bool) -> None:
        await trio.lowlevel.checkpoint()
        if self._gone:
            return
        if data and self.scope["method"] != "HEAD" and self.status not in _BODILESS:
            self._chunks.append(data)
            self._sent_bytes += len(data)
            self._moved.unpark_all()
        await self._until(lambda: len(self._chunks) <= self._window or self._gone)
        if not more and not self._gone:
            self._check_length()
            self._complete = True
            self._events_w.send_nowait({"type": "http.disconnect"})
            self._moved.unpark_all()

    def _check_length(self) -> None:
        promised = self.header("content-length")
        if promised is None or self.scope["method"] == "HEAD" or self.status in _BODILESS:
            return
        assert int(promised) == self._sent_bytes, f"content-length {promised}, body {self._sent_bytes}"

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait for `ready`, or for the app's end."""
        await trio.lowlevel.checkpoint()
        while not ready() and not self.app_done.is_set():
            await self._moved.park()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


@asynccontextmanager
async def open_call(
    nursery: trio.Nursery,
    app: App,
    method: str,
    target: str,
    *,
    headers: Headers = (),
    body: bytes | None = b"",
    window: float = math.inf,
    client: tuple[str, int] = ("127.0.0.1", 50000),
    server: tuple[str, int] = ("127.0.0.1", 8800),
    scheme: str = "http",
) -> AsyncIterator[Exchange]:
    """Start a request in the test's nursery and hold it open; leaving the block hangs up and waits for the app's end.

    body: all of it, or None: the test calls `send_body` and `end_body`. window: how many chunks the client takes unread
    before the app's send waits; 0 is a client that stopped reading. Raises the app's error when nobody has seen it.
    """
    scope = make_scope(method, target, headers, body, client=client, server=server, scheme=scheme)
    exchange = Exchange(scope, window=window)
    if body is not None:
        if body:
            exchange.send_body(body)
        exchange.end_body()
    nursery.start_soon(exchange.run, app)
    try:
        yield exchange
    finally:
        exchange.disconnect()
    await exchange.finished()


async def call(
    app: App,
    method: str,
    target: str,
    *,
    headers: Headers = (),
    body: bytes = b"",
    client: tuple[str, int] = ("127.0.0.1", 50000),
    server: tuple[str, int] = ("127.0.0.1", 8800),
    scheme: str = "http",
) -> Response:
    """Make one exchange from beginning to end. Raises the app's error, AssertionError for an answer cut short."""
    scope = make_scope(method, target, headers, body, client=client, server=server, scheme=scheme)
    exchange = Exchange(scope, window=math.inf)
    if body:
        exchange.send_body(body)
    exchange.end_body()
    await exchange.run(app)
    await exchange.started()
    taken = await exchange.body()
    await exchange.finished()
    assert exchange.complete, "the app ended in the middle of its answer"
    return Response(exchange.status, exchange.headers, taken)


def make_scope(
    method: str,
    target: str,
    headers: Headers,
    body: bytes | None,
    *,
    client: tuple[str, int],
    server: tuple[str, int],
    scheme: str,
) -> dict[str, Any]:
    """An ASGI scope as hypercorn makes it. Adds `Host: localhost` and the body's framing where `headers` has none."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("host", "localhost"))
    if body is None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("transfer-encoding", "chunked"))
    if body and "content-length" not in names:
        pairs.append(("content-length", str(len(body))))
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": method,
        "scheme": scheme,
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in pairs],
        "client": client,
        "server": server,
        "state": {},
        "extensions": {},
    }


def _one_header(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in headers if key == name.lower()]
    assert len(values) <= 1, f"{name} was sent {len(values)} times"
    return values[0] if values else None
