"""The one HTTP client: a call in, an answer or a mapped error out; a cancelled call aborts its connection at once.

Every exchange has a connection of its own, closed after it. A picture takes seconds and a connection takes a
millisecond; in return no POST that must not run twice ever meets a connection that the backend has just closed, the
pool has nothing to poll, and to cancel is to close.
"""

import base64
import io
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, cast
from urllib.parse import unquote

import certifi
import httpx
import trio

from appliance.config.settings import Settings
from appliance.protocol.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from appliance.upstream.exchange import UNREACHABLE, UpstreamAnswer, UpstreamCall

__all__ = ["Observe", "UpstreamAnswer", "UpstreamCall", "UpstreamClient", "open_upstream"]

Observe = Callable[[str, float], None]
Phase = Literal["connect", "first byte", "idle", "total"]

MAX_HEADER_FIELDS = 100  # as our own listener; httpcore refuses 100 KiB of headers before we see them
MAX_HEADER_BYTES = 32 * 1024

_USER_AGENT = "appliance"
_FIXED_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": _USER_AGENT,
}

_IN_PLAIN_WORDS: dict[Phase, str] = {
    "connect": "took no connection within {:g} s",
    "first byte": "did not answer within {:g} s",
    "idle": "fell silent for {:g} s in the middle of its answer",
    "total": "did not finish its answer within {:g} s",
}

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
)
_BREAKAGES = tuple(kind for kind, _ in _BROKEN)


class _Deadlines:
    """One cancel scope whose deadline moves with the phases of a call; remembers which one it was."""

    def __init__(self, total_s: float) -> None:
        self.scope = trio.CancelScope()
        self.phase: Phase = "connect"
        self.limit_s = 0.0
        self._total_s = total_s
        self._end = trio.current_time() + total_s

    def __enter__(self) -> Self:
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.scope.__exit__(kind, value, traceback)

    def enter_phase(self, phase: Phase, limit_s: float) -> None:
        deadline = trio.current_time() + limit_s
        self.phase, self.limit_s = (phase, limit_s) if deadline < self._end else ("total", self._total_s)
        self.scope.deadline = min(deadline, self._end)


@dataclass(slots=True)
class _Reading:
    """What came so far; `excess` says why the rest is not wanted."""

    body: io.BytesIO
    excess: str | None = None


class UpstreamClient:
    """Makes calls to backends. Build with `open_upstream`; safe for any number of tasks.

    `observe(backend_class, seconds)` hears the latency of every answer.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, *, connect_s: float, observe: Observe) -> None:
        self._transport = transport
        self._connect_s = connect_s
        self._observe = observe

    async def exchange(self, call: UpstreamCall) -> UpstreamAnswer:
        """Send the request, read the whole answer, whatever its status.

        Raises UpstreamTimeout naming the deadline that passed; UpstreamFailed for a backend that cannot be reached,
        breaks off, redirects, compresses, answers invalid HTTP or more than the caps. Closes the connection always.
        """
        with _Deadlines(call.total_s) as deadlines:
            deadlines.enter_phase("connect", self._connect_s)
            try:
                return await self._exchange(call, deadlines)
            except _BREAKAGES as error:
                raise _map_breakage(error, call.backend_class) from None
        raise _timed_out(deadlines, call.backend_class)

    async def _exchange(self, call: UpstreamCall, deadlines: _Deadlines) -> UpstreamAnswer:
        started = trio.current_time()
        response = await self._transport.handle_async_request(_request(call, deadlines))
        latency_s = trio.current_time() - started
        reading = _Reading(io.BytesIO(), excess=_unacceptable(response))
        with trio.CancelScope() as reader:
            if reading.excess is not None:
                reader.cancel()
            deadlines.enter_phase("idle", call.idle_s)
            await _read(response, call, deadlines, reading, reader)
        if reading.excess is not None:
            raise UpstreamFailed(f"{call.backend_class} {reading.excess}.", upstream=call.backend_class)
        self._observe(call.backend_class, latency_s)
        return UpstreamAnswer(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            retry_after=response.headers.get("retry-after"),
            body=reading.body.getvalue(),
            latency_s=latency_s,
        )


async def _read(
    response: httpx.Response, call: UpstreamCall, deadlines: _Deadlines, reading: _Reading, reader: trio.CancelScope
) -> None:
    """Read the body under its cap. A body that is not wanted is cancelled from inside its iterator.

    Leaving the loop would abandon the library's nested generators to the garbage collector.
    """
    stream = cast("httpx.AsyncByteStream", response.stream)  # the library types it for its synchronous twin too
    async for piece in stream:
        if reading.excess is not None:
            continue
        if reading.body.tell() + len(piece) > call.max_body_bytes:
            reading.excess = f"answered more than {call.max_body_bytes} bytes"
            reader.cancel()
            continue
        reading.body.write(piece)
        deadlines.enter_phase("idle", call.idle_s)
    await stream.aclose()


def _request(call: UpstreamCall, deadlines: _Deadlines) -> httpx.Request:
    url = httpx.URL(call.url)
    credentials = _basic(url)

    async def trace(event: str, _info: object) -> None:
        # The connection stands, TLS included: from here on the backend may have heard of this call.
        if event == "http11.send_request_headers.started":
            call.on_connected()
            deadlines.enter_phase("first byte", call.first_byte_s)

    return httpx.Request(
        call.method,
        url.copy_with(userinfo=b""),
        headers={**_FIXED_HEADERS, **credentials, **call.headers},
        content=call.body,
        extensions={"trace": trace},
    )


def _basic(url: httpx.URL) -> dict[str, str]:
    if not url.userinfo:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(unquote(url.userinfo.decode()).encode()).decode()}


def _unacceptable(response: httpx.Response) -> str | None:
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
    return None


def _map_breakage(error: BaseException, backend_class: str) -> GatewayError:
    words = next(words for kind, words in _BROKEN if isinstance(error, kind))
    code = UNREACHABLE if isinstance(error, httpx.ConnectError) else None
    return UpstreamFailed(f"{backend_class} {words}.", upstream=backend_class, code=code)


def _timed_out(deadlines: _Deadlines, backend_class: str) -> UpstreamTimeout:
    words = _IN_PLAIN_WORDS[deadlines.phase].format(deadlines.limit_s)
    return UpstreamTimeout(f"{backend_class} {words} ({deadlines.phase} deadline).", upstream=backend_class)


def _ignore(_backend_class: str, _seconds: float) -> None:
    return


@asynccontextmanager
async def open_upstream(settings: Settings, *, observe: Observe = _ignore) -> AsyncIterator[UpstreamClient]:
    """Open the client for the life of the process. Raises ValueError naming the setting whose file cannot be used."""
    transport = httpx.AsyncHTTPTransport(
        verify=_ssl_context(settings),
        trust_env=False,
        http1=True,
        http2=False,
        # Admission bounds the calls; a pool that queued them would only hide the wait.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
    )
    async with transport:
        yield UpstreamClient(transport, connect_s=settings.backend_connect_timeout_sec, observe=observe)


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.backend_ca_bundle or certifi.where())
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"BACKEND_CA_BUNDLE: not a PEM bundle that can be read ({type(error).__name__})") from None
    if not settings.backend_verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.backend_client_cert:
        certificate, _, key = settings.backend_client_cert.partition(",")
        try:
            context.load_cert_chain(certificate.strip(), key.strip() or None)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"BACKEND_CLIENT_CERT: cannot be used ({type(error).__name__})") from None
    return context
