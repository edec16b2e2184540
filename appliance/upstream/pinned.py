"""A pinned exchange: one request to addresses that were checked before, its answer kept up to a cap. Resolves nothing."""

import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import trio

from appliance.upstream.stream_connect import connect_tcp, secure
from appliance.upstream.wire import CUT_SHORT, ResponseHead, ResponseReader
from appliance.upstream.wire_request import BadAddress, header_lines

RECEIVE_BYTES = 64 * 1024
CONNECT_S = 2.0  # for each address but the last, which has whatever the caller's deadline leaves

_DEFAULT_HEADERS = {"Accept": "*/*", "User-Agent": "appliance"}
_FIXED_HEADERS = {"Accept-Encoding": "identity", "Connection": "close"}

Breakage = Literal["unreachable", "tls_failed", "bad_answer", "unsendable"]


class PinnedFailed(Exception):
    """The exchange came to nothing. `words` follow "The server "."""

    def __init__(self, kind: Breakage, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words


@dataclass(frozen=True, slots=True)
class PinnedRequest:
    """A request without a body. `addresses`: one or more, as text, tried in this order. `name`: whose certificate TLS
    expects. `path`: with its query. `headers`: the caller's own, which come before the defaults."""

    method: str
    addresses: Sequence[str]
    port: int
    name: str
    authority: str
    path: str
    headers: Mapping[str, str]
    max_body_bytes: int


@dataclass(frozen=True, slots=True)
class PinnedAnswer:
    """The answer, a redirect like any other. `truncated`: the server had more. `io_bytes`: sent and received."""

    head: ResponseHead
    body: bytes
    truncated: bool
    io_bytes: int


async def exchange_pinned(request: PinnedRequest, tls: ssl.SSLContext | None) -> PinnedAnswer:
    """Ask the first address that takes a connection, in plain HTTP where `tls` is None; the caller sets the deadline.

    Raises PinnedFailed. Closes the connection on every way out.
    """
    head = _request_head(request)
    stream: trio.abc.Stream = await _connect(request)
    try:
        if tls is not None:
            stream = await _secure(stream, tls, request.name)
        return await _converse(stream, request, head)
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(request: PinnedRequest) -> trio.SocketStream:
    for address in request.addresses[:-1]:
        with suppress(OSError), trio.move_on_after(CONNECT_S):
            return await connect_tcp(address, request.port)
    try:
        return await connect_tcp(request.addresses[-1], request.port)
    except OSError:
        raise PinnedFailed("unreachable", "cannot be reached") from None


async def _secure(stream: trio.abc.Stream, tls: ssl.SSLContext, name: str) -> trio.abc.Stream:
    try:
        return await secure(stream, tls, name=name)
    except trio.BrokenResourceError:
        raise PinnedFailed("tls_failed", "speaks no TLS, or its certificate is not to be believed") from None


async def _converse(stream: trio.abc.Stream, request: PinnedRequest, head: bytes) -> PinnedAnswer:
    with suppress(trio.BrokenResourceError):  # it may have answered, and closed, before it had read everything
        await stream.send_all(head)
    reader = ResponseReader(redirects=True)
    body = bytearray()
    io_bytes = len(head)
    try:
        while (answer := _decide_answer(request, reader, body, io_bytes)) is None:
            io_bytes += await _receive(stream, reader)
            body += reader.take()
    finally:
        reader.discard()
    return answer


def _decide_answer(
    request: PinnedRequest, reader: ResponseReader, body: bytearray, io_bytes: int
) -> PinnedAnswer | None:
    """The answer once enough of it came, None until then. Raises PinnedFailed when no more will come."""
    head, cap = reader.head, request.max_body_bytes
    if head is not None and request.method == "HEAD":
        return PinnedAnswer(head, b"", truncated=False, io_bytes=io_bytes)
    # What was announced and does not fit need not be waited for.
    if head is not None and len(body) >= cap and max(len(body), head.length or 0) > cap:
        return PinnedAnswer(head, bytes(body[:cap]), truncated=True, io_bytes=io_bytes)
    if head is not None and reader.ended:
        return PinnedAnswer(head, bytes(body), truncated=False, io_bytes=io_bytes)
    if reader.problem is not None:
        raise PinnedFailed("bad_answer", reader.problem)
    return None


async def _receive(stream: trio.abc.Stream, reader: ResponseReader) -> int:
    try:
        data = await stream.receive_some(RECEIVE_BYTES)
    except trio.BrokenResourceError:
        raise PinnedFailed("bad_answer", CUT_SHORT) from None
    if data:
        reader.feed(data)
    else:
        reader.feed_eof()
    return len(data)


def _request_head(request: PinnedRequest) -> bytes:
    given = {name.lower() for name in request.headers}
    defaults = {name: value for name, value in _DEFAULT_HEADERS.items() if name.lower() not in given}
    headers = {"Host": request.authority, **defaults, **request.headers, **_FIXED_HEADERS}
    try:
        return f"{request.method} {request.path} HTTP/1.1\r\n{header_lines(headers)}\r\n".encode("latin-1")
    except BadAddress as problem:
        raise PinnedFailed("unsendable", str(problem)) from None
