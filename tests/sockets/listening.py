"""Listening: a listener on a loopback port, a raw client, and small applications to put behind it."""

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import trio

from appliance.config.settings import Http1
from appliance.server.listener import run_listener
from appliance.server.listener_limits import ListenerLimits, Refusal
from appliance.server.listener_sockets import open_sockets

App = Callable[[Any, Any, Any], Awaitable[None]]

# Who speaks HTTP/1.1 in this test; the fixture `http1` says both in turn.
speaker: ContextVar[Http1] = ContextVar("speaker", default="lane")


@dataclass
class House:
    """What a running test listener tells."""

    port: int = 0
    stop: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    refusals: list[Refusal] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)

    def refuse(self, refusal: Refusal) -> bytes:
        self.refusals.append(refusal)
        body = f'{{"code":"{refusal.code}"}}'.encode()
        head = f"HTTP/1.1 {refusal.status} Refused\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        return head.encode() + body

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def exchange(self, request: bytes, *, timeout_s: float = 5) -> bytes:
        """Send bytes and read until the listener closes."""
        async with await self.connect() as client:
            return await send_and_read(client, request, timeout_s=timeout_s)


async def send_and_read(client: trio.abc.Stream, request: bytes, *, timeout_s: float = 5) -> bytes:
    with trio.fail_after(timeout_s):
        await client.send_all(request)
        return await read_to_end(client)


async def read_to_end(client: trio.abc.Stream) -> bytes:
    got = b""
    while data := await client.receive_some():
        got += data
    return got


async def read_until(client: trio.abc.Stream, mark: bytes, *, timeout_s: float = 5) -> bytes:
    got = b""
    with trio.fail_after(timeout_s):
        while mark not in got:
            data = await client.receive_some()
            assert data, f"closed before {mark!r}: {got!r}"
            got += data
    return got


@asynccontextmanager
async def listening(
    app: App, limits: ListenerLimits | None = None, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[House]:
    house = House()
    sockets = open_sockets("127.0.0.1", 0)
    house.port = sockets[0].getsockname()[1]

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await run_listener(
            app,
            sockets,
            limits=limits or ListenerLimits(),
            refuse=house.refuse,
            on_crash=house.crashes.append,
            stop=house.stop,
            ssl_context=ssl_context,
            http1=speaker.get(),
            task_status=task_status,
        )
        house.ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield house
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool], *, timeout_s: float = 5) -> None:
    """Wait for what the kernel or another task is about to make true."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - descriptors and limiters have no event to wait for
            await trio.sleep(0.001)


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def read_body(receive: Any) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    fields = [(b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with method, path and body."""
    body = await read_body(receive)
    await answer(send, b"%s %s %s" % (scope["method"].encode(), scope["raw_path"], body))
