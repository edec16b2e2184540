"""Direct routes: from a path to its handler by a look-up in a dictionary, and from there to the answer.

A framework's dispatch alone would cost more than all that we do for a chat.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from appliance.protocol.errors import MethodNotAllowed, NotFound
from appliance.server.access import Head
from appliance.server.connection_requests import CALL_WHEN_LEFT
from appliance.server.exchange import Answer, DirectRoutes, Handler, Request, SendPiece, Upload
from appliance.server.sending import Sender
from appliance.server.visit import Visit


class ClientLeft(Exception):
    """The client was gone before its request was complete: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """A route for one path: its template, its handlers by method, and what stood where the template has a variable."""

    template: str
    methods: Mapping[str, Handler | Upload]
    variable: str = ""


class RouteTable:
    """Paths to handlers. A path is looked up as it is, then without its last segment for a template that ends in one,
    then by its beginning for a template that ends in `<path:...>`, which stands for all the rest."""

    def __init__(self, routes: DirectRoutes) -> None:
        self.routes = routes
        self._exact = {path: Found(path, methods) for path, methods in routes.items() if "<" not in path}
        self._below = {path.rpartition("/")[0]: path for path in routes if "<" in path and "<path:" not in path}
        self._deep = {path.partition("<")[0]: path for path in routes if "<path:" in path}

    def find(self, path: str) -> Found:
        """Raises NotFound."""
        found = self._exact.get(path)
        if found is not None:
            return found
        head, _, variable = path.rpartition("/")
        template = self._below.get(head)
        if template is not None and variable:
            return Found(template, self.routes[template], variable)
        for start, deep in self._deep.items():
            rest = path.removeprefix(start)
            if path.startswith(start) and rest and not rest.startswith("/"):
                return Found(deep, self.routes[deep], rest)
        raise NotFound("Nothing is served under this path: see the endpoint table of the README.")


class Receive(Protocol):
    """A request's body, and then its client's leaving."""

    async def __call__(self) -> Any:
        """The next ASGI message."""

    def take_nowait(self) -> bytes | None:
        """The whole body, if that can be had at once."""


async def serve_direct(
    visit: Visit, found: Found, head: Head, scope: Mapping[str, Any], receive: Receive, send: Sender
) -> None:
    """Read the body, call the handler, send its answer; a client that leaves cancels the handler at once.

    Raises what the handler raises, MethodNotAllowed, ClientLeft.
    """
    visit.route = found.template
    method = scope["method"]
    handler = found.methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        raise MethodNotAllowed(method, _allowed(found.methods))
    raw = b"" if isinstance(handler, Upload) else await _read_body(receive)
    request = Request(visit, head, raw, scope["query_string"], found.variable)
    if isinstance(handler, Upload):
        handler = await handler.receive(request, _Pieces(receive).next)
    call_when_left = scope["extensions"].get(CALL_WHEN_LEFT)
    if call_when_left is not None:
        call_when_left(lambda: visit.leave(trio.current_time()))
        await send_answer(await handler(request), send)
        return
    async with trio.open_nursery() as nursery:  # another server than our listener: its one way to say so is a message
        nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
        await send_answer(await handler(request), send)
        nursery.cancel_scope.cancel()


async def send_answer(answer: Answer, send: Sender) -> None:
    """Send the head and the body, whole or in pieces."""
    headers = [(b"content-type", answer.content_type.encode("latin-1"))]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()]
    if isinstance(answer.body, bytes):
        await send.whole(answer.status, headers, answer.body)
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if isinstance(answer.body, AsyncGenerator):
        await _send_pieces(answer.body, send.piece)
    else:
        await answer.body(send.piece)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_pieces(pieces: AsyncGenerator[bytes, None], send_piece: SendPiece) -> None:
    async with aclosing(pieces):  # a client that leaves while it is sent to must not leave it to the collector
        async for piece in pieces:
            await send_piece(piece)


async def _read_body(receive: Receive) -> bytes:
    """All of it; its size is limited by whoever made `receive`."""
    if (whole := receive.take_nowait()) is not None:
        return whole
    body = _Pieces(receive)
    pieces = []
    while piece := await body.next():
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Pieces:
    """A request's body, piece by piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = False

    async def next(self) -> bytes:
        """The next piece, empty at the end and from then on. Raises ClientLeft."""
        while not self._complete:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientLeft
            self._complete = not message.get("more_body", False)
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


def _allowed(methods: Mapping[str, Handler | Upload]) -> list[str]:
    return [*methods, "HEAD"] if "GET" in methods else list(methods)
