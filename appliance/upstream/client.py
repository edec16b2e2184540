"""The one HTTP client: a call in, an answer or a mapped error out; a cancelled call aborts its connection at once.

Whole answers come by httpx; streams, whose reads a relay interrupts, by the transport in `stream`. Every exchange has a
connection of its own, closed after it. A picture takes seconds and a connection takes a millisecond; in return no POST
that must not run twice ever meets a connection that the backend has just closed, the pool has nothing to poll, and to
cancel is to close.
"""

import base64
import io
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httpcore
import httpx
import trio

from appliance.config.settings import Settings
from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.upstream.deadlines import Deadlines
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.stream import UpstreamStream, open_stream
from appliance.upstream.stream_connect import Connect, connect
from appliance.upstream.tls import tls_context
from appliance.upstream.websocket import WebSocket, WebSocketCall, open_websocket

__all__ = ["Observe", "UpstreamAnswer", "UpstreamCall", "UpstreamClient", "UpstreamStream", "open_upstream"]

Observe = Callable[[str, float], None]

MAX_HEADER_FIELDS = 100  # as our own listener; httpcore refuses 100 KiB of headers before we see them
MAX_HEADER_BYTES = 32 * 1024

_CLOSE_S = 1.0  # closing a socket does not wait; a bound all the same

_USER_AGENT = "appliance"
_FIXED_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": _USER_AGENT,
}

_TOO_LONG = "answered more than {} bytes"

# One table for everything the HTTP library raises. Its own words name hosts and addresses: they stay inside.
_BROKEN: tuple[tuple[type[BaseException], str], ...] = (
    (httpx.ConnectError, "cannot be reached"),
    (httpx.RemoteProtocolError, "answered something that is not valid HTTP, or closed the connection early"),
    (httpx.LocalProtocolError, "cannot be sent this request"),
    (httpx.UnsupportedProtocol, "has an address that is neither http:// nor https://"),
    (httpx.InvalidURL, "has an address that is not a URL"),
    (httpx.NetworkError, "broke off the connection"),
    (httpx.TransportError, "could not be talked to"),
    (ssl.SSLError, "failed the TLS handshake"),
    (OSError, "broke off the connection"),
    (UnicodeError, "has an address that is not a URL"),
    (Exception, "could not be talked to"),
)


@dataclass(slots=True)
class _Reading:
    """What came so far; `excess` says why the rest is not wanted."""

    body: io.BytesIO
    excess: str | None = None


class _Line:
    """The TCP connection of one exchange, kept in hand: httpcore 1.0 forgets it when a TLS handshake is cancelled."""

    def __init__(self) -> None:
        self.stream: httpcore.AsyncNetworkStream | None = None

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.aclose()


class _Body(httpx.AsyncByteStream):
    """A request's body in one piece. Not a generator: one that is cancelled while sending is left to the collector."""

    def __init__(self, body: bytes) -> None:
        self._pieces = [body] if body else []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        return self._pieces.pop()


class UpstreamClient:
    """Makes calls to backends. Build with `open_upstream`; safe for any number of tasks.

    `observe(backend_class, seconds)` hears the latency of every answer.
    """

    def __init__(
        self, transport: httpx.AsyncBaseTransport, connect: Connect, *, connect_s: float, observe: Observe
    ) -> None:
        self._transport = transport
        self._connect = connect
        self._connect_s = connect_s
        self._observe = observe

    async def exchange(self, call: UpstreamCall) -> UpstreamAnswer:
        """Send the request, read the whole answer, whatever its status.

        Raises UpstreamTimeout naming the deadline that passed; UpstreamFailed for a backend that cannot be reached,
        breaks off, redirects, compresses, answers invalid HTTP or more than the caps. Closes the connection always.
        """
        with Deadlines(call.total_s) as deadlines:
            deadlines.enter_phase("connect", self._connect_s)
            line = _Line()
            try:
                answer = await self._exchange(call, deadlines, line)
            except GatewayError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a hostile answer makes the library raise is the backend's failure
                raise _map_breakage(error, call.backend_class) from None
            finally:
                with trio.move_on_after(_CLOSE_S, shield=True):
                    await line.close()
            self._observe(call.backend_class, answer.latency_s)
            return answer
        raise deadlines.error(call.backend_class)

    def open_stream(self, call: UpstreamCall) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send the request; entering waits for the head of the answer, whatever its status, and gives its stream.

        Raises what `exchange` raises, on entering and on receiving. Leaving closes the connection at once.
        """
        return open_stream(call, self._connect, connect_s=self._connect_s, observe=self._observe)

    def open_websocket(self, call: WebSocketCall) -> AbstractAsyncContextManager[WebSocket]:
        """Connect and shake hands; leaving closes. Raises UpstreamFailed, UpstreamTimeout."""
        return open_websocket(call, self._connect, connect_s=self._connect_s)

    async def _exchange(self, call: UpstreamCall, deadlines: Deadlines, line: _Line) -> UpstreamAnswer:
        started = trio.current_time()
        response = await self._transport.handle_async_request(_request(call, deadlines, line))
        latency_s = trio.current_time() - started
        reading = _Reading(io.BytesIO(), excess=_unacceptable(response, call.max_body_bytes))
        with trio.CancelScope() as reader:
            if reading.excess is not None:
                reader.cancel()
            deadlines.enter_phase("idle", call.idle_s)
            await _read(response, call, deadlines, reading, reader)
        if reading.excess is not None:
            raise UpstreamFailed(f"{call.backend_class} {reading.excess}.", upstream=call.backend_class)
        return UpstreamAnswer(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            retry_after=response.headers.get("retry-after"),
            body=reading.body.getvalue(),
            latency_s=latency_s,
        )


async def _read(
    response: httpx.Response, call: UpstreamCall, deadlines: Deadlines, reading: _Reading, reader: trio.CancelScope
) -> None:
    """Read the body under its cap. A body that is not wanted is cancelled from inside its iterator.

    Leaving the loop would abandon the library's nested generators to the garbage collector.
    """
    stream = cast("httpx.AsyncByteStream", response.stream)  # the library types it for its synchronous twin too
    async for piece in stream:
        if reading.excess is not None:
            continue
        if reading.body.tell() + len(piece) > call.max_body_bytes:
            reading.excess = _TOO_LONG.format(call.max_body_bytes)
            reader.cancel()
            continue
        reading.body.write(piece)
        deadlines.enter_phase("idle", call.idle_s)
    await stream.aclose()


def _request(call: UpstreamCall, deadlines: Deadlines, line: _Line) -> httpx.Request:
    url = httpx.URL(call.url)
    credentials = _basic(url)
    framing = {"Host": url.netloc.decode("ascii"), "Content-Length": str(len(call.body))}

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            line.stream = info["return_value"]
        # The connection stands, TLS included: from here on the backend may have heard of this call.
        if event == "http11.send_request_headers.started":
            call.on_connected()
            deadlines.enter_phase("first byte", call.first_byte_s)

    return httpx.Request(
        call.method,
        url.copy_with(userinfo=b""),
        headers={**_FIXED_HEADERS, **credentials, **call.headers, **framing},
        stream=_Body(call.body),
        extensions={"trace": trace},
    )


def _basic(url: httpx.URL) -> dict[str, str]:
    if not url.userinfo:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(unquote(url.userinfo.decode()).encode()).decode()}


def _unacceptable(response: httpx.Response, max_body_bytes: int) -> str | None:
    """Say what is wrong with the answer's head, if anything."""
    raw = response.headers.raw
    if len(raw) > MAX_HEADER_FIELDS or sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
        return "answered with too many headers"
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return "compressed its answer, which it was asked not to do"
    if 300 <= response.status_code < 400:
        return f"answered {response.status_code}, a redirect: put its real address into base_url"
    if response.status_code < 200:
        return f"answered {response.status_code}, which was not asked for"
    if int(response.headers.get("content-length", "0")) > max_body_bytes:
        return _TOO_LONG.format(max_body_bytes)
    return None


def _map_breakage(error: BaseException, backend_class: str) -> UpstreamFailed:
    words = next(words for kind, words in _BROKEN if isinstance(error, kind))
    return UpstreamFailed(f"{backend_class} {words}.", upstream=backend_class)


def _ignore(_backend_class: str, _seconds: float) -> None:
    return


@asynccontextmanager
async def open_upstream(
    settings: Settings, *, observe: Observe = _ignore, https: bool = True
) -> AsyncIterator[UpstreamClient]:
    """Open the client for the life of the process. `https`: whether any backend is asked by it.

    Raises ValueError naming the setting whose file cannot be used.
    """
    tls = tls_context(settings, https=https)
    transport = httpx.AsyncHTTPTransport(
        verify=tls,
        trust_env=False,
        http1=True,
        http2=False,
        # Admission bounds the calls; a pool that queued them would only hide the wait.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
    async with transport:
        yield UpstreamClient(
            transport,
            partial(connect, tls=tls),
            connect_s=settings.backend_connect_timeout_sec,
            observe=observe,
        )
