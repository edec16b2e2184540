"""Relay: a backend's event stream to the client, as it comes, with pings in its silences and one true end."""

from collections.abc import Callable
from functools import partial

import trio

from appliance.backends.base import ByteSource, PatientSource
from appliance.protocol.errors import GatewayError
from appliance.protocol.sse import PING
from appliance.protocol.streams import StreamFilter
from appliance.server.exchange import SendPiece

PING_INTERVAL_S = 15.0  # contract 1; proxies and browsers give up on a silent connection after 30 s and more

SSE_TYPE = "text/event-stream"
SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def relay_events(
    source: ByteSource, events: StreamFilter, send: SendPiece, *, on_error: Callable[[GatewayError], None]
) -> None:
    """Send the client each read's whole events in one piece, and `: ping` in silence.

    An upstream's failure becomes one error event, told to `on_error`, and the stream ends. The source is closed by the
    request's stack, which opened it.
    """
    receive = source.receive_within if isinstance(source, PatientSource) else partial(_receive_within, source)
    try:
        while not events.ended:
            piece = await receive(PING_INTERVAL_S)
            if piece is None:
                await send(PING)
                continue
            ready = events.feed(piece) if piece else b""
            if not piece or events.ended:
                ready += events.finish()
            if ready:
                await send(ready)
    except GatewayError as error:
        on_error(error)
        await send(events.fail(error))


async def _receive_within(source: ByteSource, seconds: float) -> bytes | None:
    with trio.move_on_after(seconds):
        return await source.receive()
    return None
