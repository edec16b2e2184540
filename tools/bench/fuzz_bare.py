"""A bare listener for the fuzz: a small application that reads, echoes and streams, and nothing behind it."""

from typing import Any

import trio

from appliance.config.settings import Http1
from appliance.server.listener import run_listener
from appliance.server.listener_limits import ListenerLimits, Refusal
from appliance.server.listener_sockets import open_sockets


async def run_bare(port: int, http1: Http1) -> None:
    """Serve until cancelled or killed. A crash that containment had to catch ends it: the fuzz is there to find those."""
    crashes: list[BaseException] = []
    stop = trio.Event()

    def crashed(fault: BaseException) -> None:
        crashes.append(fault)
        stop.set()

    await run_listener(
        _echo,
        open_sockets("127.0.0.1", port),
        limits=ListenerLimits(),
        refuse=_refuse,
        on_crash=crashed,
        stop=stop,
        http1=http1,
    )
    raise BaseExceptionGroup("contained crashes", crashes)


def _refuse(refusal: Refusal) -> bytes:
    return b"HTTP/1.1 %d Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % refusal.status


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message["more_body"]:
            break
    status = 200 if scope["path"] == "/health" else 404
    await send({"type": "http.response.start", "status": status, "headers": []})
    for piece in (b"one", b"two" * 1000, b""):
        await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})
