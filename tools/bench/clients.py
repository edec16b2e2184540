"""Clients with bad manners: they ask for a picture and hang up at a chosen moment, politely (FIN) or not (RST)."""

import socket
import struct
import time
from typing import Literal

import trio

from tools.bench.common import make_request
from tools.bench.gateway_process import GatewayProcess

Goodbye = Literal["FIN", "RST"]
GOODBYES: tuple[Goodbye, ...] = ("FIN", "RST")

GENERATIONS = "/v1/images/generations"
_RST_LINGER = struct.pack("ii", 1, 0)  # socket(7): a close with this linger resets


class Asker:
    """One connection that asks for one picture."""

    def __init__(self, stream: trio.SocketStream, request: bytes) -> None:
        self._stream = stream
        self._request = request

    async def send(self, share: float = 1.0) -> None:
        """Send this share of the request."""
        await self._stream.send_all(self._request[: int(len(self._request) * share)])

    def hang_up(self, goodbye: Goodbye) -> float:
        """Close at once; when (time.perf_counter)."""
        if goodbye == "RST":
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_LINGER)
        now_s = time.perf_counter()
        self._stream.socket.close()
        return now_s

    @property
    def head_share(self) -> float:
        """The share of the request that is its head."""
        return (self._request.index(b"\r\n\r\n") + 4) / len(self._request)


async def open_asker(gateway: GatewayProcess, prompt: str, steps: int | None = None) -> Asker:
    """Connect. Nothing is sent yet."""
    body = {"prompt": prompt, "size": "64x64"} | ({} if steps is None else {"steps": steps})
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    return Asker(stream, make_request("POST", GENERATIONS, gateway.token, body, port=gateway.port))
