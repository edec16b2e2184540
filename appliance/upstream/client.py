"""The one HTTP client: a call in, an answer or a mapped error out; a cancelled call aborts its connection at once."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from appliance.config.settings import Settings
from appliance.upstream.bare import Alarms
from appliance.upstream.coalescing import open_coalescer
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.pool import Pool, open_pool
from appliance.upstream.stream import UpstreamStream
from appliance.upstream.stream_begin import OpenStream, begin_stream
from appliance.upstream.stream_connect import Connect, connect
from appliance.upstream.tls import tls_context
from appliance.upstream.websocket_call import WebSocketCall

if TYPE_CHECKING:
    from appliance.upstream.websocket import WebSocket

__all__ = ["Observe", "UpstreamAnswer", "UpstreamCall", "UpstreamClient", "UpstreamStream", "open_upstream"]

Observe = Callable[[str, float], None]


class UpstreamClient:
    """Makes calls to backends. Build with `open_upstream`; safe for any number of tasks.

    `observe(backend_class, seconds)` hears the latency of every answer.
    """

    def __init__(self, pool: Pool, connect: Connect, *, connect_s: float, observe: Observe) -> None:
        self._pool = pool
        self._connect = connect  # a WebSocket is nobody's to share
        self._connect_s = connect_s
        self._observe = observe

    def __repr__(self) -> str:
        return f"<UpstreamClient {self._pool!r}>"

    async def exchange(self, call: UpstreamCall) -> UpstreamAnswer:
        """Send the request, read the whole answer, whatever its status.

        Raises UpstreamTimeout naming the deadline that passed; UpstreamFailed for a backend that cannot be reached,
        breaks off, redirects, compresses, answers invalid HTTP or more than the caps. Gives the connection back, or
        closes it, always.
        """
        stream = await begin_stream(call, self._pool, connect_s=self._connect_s)
        try:
            stream.enter_body()
            body = await stream.read_all(call.max_body_bytes)
        finally:
            stream.close_nowait()
        self._observe(call.backend_class, stream.latency_s)
        return UpstreamAnswer(stream.status, stream.content_type, stream.retry_after, body, stream.latency_s)

    def open_stream(self, call: UpstreamCall) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send the request; entering waits for the head of the answer, whatever its status, and gives its stream.

        Raises what `exchange` raises, on entering and on receiving. Leaving closes the connection at once, unless the
        answer was read to its end and the call leaves its connection to others.
        """
        return OpenStream(call, self._pool, connect_s=self._connect_s, observe=self._observe)

    def open_websocket(self, call: WebSocketCall) -> "AbstractAsyncContextManager[WebSocket]":
        """Connect and shake hands; leaving closes. Raises UpstreamFailed, UpstreamTimeout."""
        from appliance.upstream.websocket import open_websocket  # noqa: PLC0415 -- wsproto: 1 MB that few boxes need

        return open_websocket(call, self._connect, connect_s=self._connect_s)


def _ignore(_backend_class: str, _seconds: float) -> None:
    return


@asynccontextmanager
async def open_upstream(
    settings: Settings, *, observe: Observe = _ignore, https: bool = True, websockets: bool = False
) -> AsyncIterator[UpstreamClient]:
    """Open the client for the life of the process. `https`: whether any backend is asked by it. `websockets`: whether
    any is listened to by one: they are ready from the start then, so that the first picture does not wait for imports.

    Raises ValueError naming the setting whose file cannot be used.
    """
    if websockets:
        import appliance.upstream.websocket  # noqa: F401, PLC0415 -- see open_websocket
    tls = tls_context(settings, https=https)
    alarms = Alarms()
    with open_coalescer() as coalescer:
        dial = partial(connect, tls=tls, alarms=alarms, coalescer=coalescer)
        async with open_pool(dial, alarms) as pool:
            yield UpstreamClient(pool, dial, connect_s=settings.backend_connect_timeout_sec, observe=observe)
