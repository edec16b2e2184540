"""An OpenAI-style image server that draws as its prompts tell it, and remembers when it was left.

A prompt that starts with `draw` is answered at once, `hold` never, `half` with half an answer and then silence.
"""

import base64
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
_ANSWER = json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode()

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Seen:
    """One picture that was asked for. `left_s`: when its connection was seen closed (time.perf_counter)."""

    arrived: trio.Event = field(default_factory=trio.Event)
    left: trio.Event = field(default_factory=trio.Event)
    left_s: float = 0.0


class SlowUpstream:
    """What came in, by prompt."""

    def __init__(self) -> None:
        self.base_url = ""
        self.seen: defaultdict[str, Seen] = defaultdict(Seen)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end."""
        buffer = b""
        async with stream:
            try:
                while True:
                    head, body, buffer = await read_request(stream, buffer)
                    await self._answer(stream, head, body)
            except (trio.BrokenResourceError, HungUp):
                return

    async def _answer(self, stream: trio.SocketStream, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST "):  # a health probe, or a question what kind of server this is
            await stream.send_all(_response(b"{}") if head.startswith(b"GET /v1/models ") else _NOT_FOUND)
            return
        prompt = json.loads(body)["prompt"]
        seen = self.seen[prompt]
        seen.arrived.set()
        if prompt.startswith("draw"):
            await stream.send_all(_response(_ANSWER))
            return
        if prompt.startswith("half"):
            await stream.send_all(_response(_ANSWER)[: -len(_ANSWER) // 2])
        try:
            await stream.receive_some(1)
        finally:
            seen.left_s = time.perf_counter()
            seen.left.set()
        raise HungUp


class HungUp(Exception):
    """The client closed its side."""


@asynccontextmanager
async def open_slow_upstream() -> AsyncIterator[SlowUpstream]:
    """Serve on a free loopback port until the block is left."""
    upstream = SlowUpstream()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    upstream.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, upstream.serve, listeners)
        yield upstream
        nursery.cancel_scope.cancel()


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def read_request(stream: trio.SocketStream, buffer: bytes) -> tuple[bytes, bytes, bytes]:
    """Head, body, and what came after. Trusts the gateway's framing: Content-Length only."""
    while b"\r\n\r\n" not in buffer:
        buffer += await _more(stream)
    head, _, rest = buffer.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(rest) < length:
        rest += await _more(stream)
    return head, rest[:length], rest[length:]


async def _more(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(65536)
    if not data:
        raise HungUp
    return data
