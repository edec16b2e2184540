"""InvokeAI's previews, over socket.io: as much of its protocol as it takes to listen.

A frame is Engine.IO's digit, then socket.io's: `0{..}` open, `2` ping, `3` pong, `40` connect, `42[event, data]`
(engine.io-protocol 4, socket.io-protocol 5). What goes wrong here costs previews, never the picture.
"""

import binascii
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio
from pydantic_core import from_json

from appliance.backends.base import ImageCall
from appliance.backends.decoding import image_from_bytes
from appliance.backends.holding import accompany
from appliance.backends.invokeai_api import Api
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout

if TYPE_CHECKING:
    from appliance.upstream.websocket import WebSocket

SOCKET = "/ws/socket.io/?EIO=4&transport=websocket"
READY_S = 2.0  # the picture waits no longer than this for its previews to be listened for
SILENCE_S = 60.0  # the server pings every 25 s and gives up after 20 more
MAX_EVENT_BYTES = 1024 * 1024  # a preview has an eighth of the picture's sides: 20 KB of JPEG

_SUBSCRIBE = '42["subscribe_queue",{"queue_id":"default"}]'

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preview:
    """`data`: of a picture, if it is one. `progress`: of the sampling, 0 to 1."""

    data: bytes
    progress: float | None


async def with_previews(call: ImageCall, api: Api, destination: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work, and listen meanwhile. Raises what the work raises."""
    ready = trio.Event()

    async def work_when_ready() -> T:
        with trio.move_on_after(READY_S):
            await ready.wait()
        return await work()

    return await accompany(work_when_ready, partial(_listen, call, api, destination, ready))


async def _listen(call: ImageCall, api: Api, destination: str, ready: trio.Event) -> None:
    try:
        async with api.open_socket(SOCKET, handshake_s=READY_S, max_message_bytes=MAX_EVENT_BYTES) as socket:
            await _subscribe(socket, api)
            ready.set()
            while True:
                _show(read_preview(await _next(socket), destination), call)
    except (UpstreamFailed, UpstreamTimeout, trio.TooSlowError):
        ready.set()


async def _subscribe(socket: "WebSocket", api: Api) -> None:
    token = api.memory.token
    await _expect(socket, api, "0")
    await socket.send("40" + ("" if token is None else json.dumps({"token": token})))
    await _expect(socket, api, "40")
    await socket.send(_SUBSCRIBE)


async def _expect(socket: "WebSocket", api: Api, kind: str) -> None:
    if not (await _next(socket)).startswith(kind):  # 44 is a refusal
        raise api.failed("does not let us listen to its queue")


async def _next(socket: "WebSocket") -> str:
    """The next frame that is no ping. Raises UpstreamFailed, TooSlowError."""
    while True:
        with trio.fail_after(SILENCE_S):
            frame = await socket.receive()
        if frame == "2":
            await socket.send("3")
        elif isinstance(frame, str):
            return frame


def read_preview(frame: str, destination: str) -> Preview | None:
    """What this frame shows, if it is an event about our own job that shows something. Never raises."""
    if not frame.startswith("42"):
        return None
    try:
        event, said = from_json(frame[2:])
        if event != "invocation_progress" or said["destination"] != destination:
            return None
        head, _, encoded = said["image"]["dataURL"].partition(",")
        progress = said.get("percentage")
        data = binascii.a2b_base64(encoded, strict_mode=True) if head.endswith(";base64") else b""
    except (ValueError, TypeError, KeyError, AttributeError):  # other events, or nothing to see yet
        return None
    return Preview(data, float(progress) if isinstance(progress, int | float) else None)


def _show(preview: Preview | None, call: ImageCall) -> None:
    if preview is None or call.on_preview is None:
        return
    with suppress(UpstreamFailed):  # no picture, or a broken one: the next will do
        call.on_preview(image_from_bytes(preview.data, call), preview.progress)
