"""Relay: a backend's event stream to the client, as it comes, with pings in its silences and one true end."""

from collections.abc import AsyncGenerator, Callable

import trio

from appliance.backends.base import ByteSource
from appliance.protocol.errors import GatewayError
from appliance.protocol.sse import PING
from appliance.protocol.streams import StreamFilter

PING_INTERVAL_S = 15.0  # contract 1; proxies and browsers give up on a silent connection after 30 s and more

SSE_TYPE = "text/event-stream"
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def relay_events(
    source: ByteSource, events: StreamFilter, *, on_error: Callable[[GatewayError], None]
) -> AsyncGenerator[bytes, None]:
    """Yield what the client is sent: each read's whole events in one piece, `: ping` in silence.

    An upstream's failure becomes one error event, told to `on_error`, and the stream ends. The source is closed by the
    request's stack, which opened it.
    """
    try:
        while not events.ended:
            piece = None
            with trio.move_on_after(PING_INTERVAL_S):
                piece = await source.receive()
            if piece is None:
                yield PING
                continue
            ready = events.feed(piece) if piece else b""
            if not piece or events.ended:
                ready += events.finish()
            if ready:
                yield ready
    except GatewayError as error:
        on_error(error)
        yield events.fail(error)
