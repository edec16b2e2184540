"""An OpenAI-style chat server that talks as its prompts tell it, and remembers when it was left.

A prompt that starts with `talk` is answered by a stream without an end, `hold` by silence, `say N` by N chunks.
"""

import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tools.bench.slow_upstream import HungUp, Seen, read_request

CHUNK_INTERVAL_S = 0.05
TALKED = "talked"  # what a chunk of `say` holds

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_MODELS = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"data":[]}'


def _chunk(delta: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
    return _chunked(b"data: " + json.dumps({**fields, "choices": [choice]}).encode() + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class TalkingUpstream:
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
        if not head.startswith(b"POST "):  # a health probe
            await stream.send_all(_MODELS)
            return
        prompt = json.loads(body)["messages"][0]["content"]
        verb, number, *_ = f"{prompt} 0".split()
        seen = self.seen[prompt]
        seen.arrived.set()
        if verb == "say":
            await _talk(stream, int(number))
            await stream.send_all(_chunk({}, "stop") + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        await _until_left(stream, seen, talking=verb == "talk")


async def _until_left(stream: trio.SocketStream, seen: Seen, *, talking: bool) -> None:
    """Talk or be silent until the other side closes, and note when. Raises HungUp."""
    async with trio.open_nursery() as nursery:
        if talking:
            nursery.start_soon(_talk_or_break, stream)
        with suppress(trio.BrokenResourceError):  # a reset is a goodbye too
            await stream.receive_some(1)
        seen.left_s = time.perf_counter()
        seen.left.set()
        nursery.cancel_scope.cancel()
    raise HungUp


async def _talk_or_break(stream: trio.SocketStream) -> None:
    try:
        await _talk(stream, None)
    except trio.BrokenResourceError:
        return  # the reader notes it


async def _talk(stream: trio.SocketStream, chunks: int | None) -> None:
    """So many chunks, or chunks for ever."""
    await stream.send_all(_HEAD + _chunk({"role": "assistant", "content": ""}))
    while chunks is None or chunks > 0:
        await trio.sleep(CHUNK_INTERVAL_S)
        await stream.send_all(_chunk({"content": TALKED}))
        chunks = None if chunks is None else chunks - 1


@asynccontextmanager
async def open_talking_upstream() -> AsyncIterator[TalkingUpstream]:
    """Serve on a free loopback port until the block is left."""
    upstream = TalkingUpstream()
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    upstream.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, upstream.serve, listeners)
        yield upstream
        nursery.cancel_scope.cancel()
