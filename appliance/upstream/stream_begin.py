"""Beginning a stream: a connection, kept or new, the request on it, and the answer's head; once more where a kept one had ended."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.deadlines import Phase
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.pool import Pool
from appliance.upstream.stream import Unheard, UpstreamStream
from appliance.upstream.stream_connect import dial
from appliance.upstream.wire_request import Address, BadAddress, parse_address, request_head


class OpenStream(AbstractAsyncContextManager[UpstreamStream]):
    """Send the request and wait for the answer's head, whatever its status; the block reads the body.

    No scope is open inside the block, which may be left in another task. Entering raises UpstreamFailed, UpstreamTimeout.
    A class, because every call has one: a generator costs three times as much.
    """

    def __init__(
        self, call: UpstreamCall, pool: Pool, *, connect_s: float, observe: Callable[[str, float], None]
    ) -> None:
        self._call = call
        self._pool = pool
        self._connect_s = connect_s
        self._observe = observe
        self._stream: UpstreamStream | None = None

    async def __aenter__(self) -> UpstreamStream:
        stream = self._stream = await begin_stream(self._call, self._pool, connect_s=self._connect_s)
        self._observe(self._call.backend_class, stream.latency_s)
        return stream

    async def __aexit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close_nowait()


async def begin_stream(call: UpstreamCall, pool: Pool, *, connect_s: float) -> UpstreamStream:
    """What `OpenStream` enters, for who closes the stream himself."""
    try:
        address = parse_address(call.url)
        head = request_head(call, address)
    except BadAddress as problem:
        raise UpstreamFailed(f"{call.backend_class} {problem}.", upstream=call.backend_class) from None
    started = trio.current_time()
    connection = pool.take_nowait(address) if call.keep_alive else None
    kept = connection is not None
    if connection is None:
        connection = await _dial(call, pool, address, min(connect_s, call.total_s))
    call.on_connected()
    stream = UpstreamStream(pool, connection, address, call, started=started, kept=kept)
    try:
        await stream.ask(head)
    except Unheard:
        stream.close_nowait()
        connection = await _dial(call, pool, address, min(connect_s, call.total_s))
        stream = UpstreamStream(pool, connection, address, call, started=started, kept=False)
        await _ask_or_close(stream, head)
    except BaseException:
        stream.close_nowait()
        raise
    return stream


async def _ask_or_close(stream: UpstreamStream, head: bytes) -> None:
    try:
        await stream.ask(head)
    except BaseException:
        stream.close_nowait()
        raise


async def _dial(call: UpstreamCall, pool: Pool, address: Address, connect_s: float) -> trio.abc.Stream:
    phase: Phase = "connect" if connect_s < call.total_s else "total"
    return await dial(call.backend_class, pool.connect, address, connect_s, phase)
