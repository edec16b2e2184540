"""ComfyUI jobs: submitting one under an id of our own, seeing it through, ending it when nobody waits any more.

An id makes every call about our job alone: the server deletes and interrupts by it. An interrupt that arrives before
the job's first node is lost (starting resets the flag), so it is said again while the job is seen running.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import trio

from appliance.backends.base import ImageCall
from appliance.backends.comfyui_events import Listener, Preview
from appliance.backends.comfyui_server import Place, Server
from appliance.backends.decoding import image_from_bytes
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.deadlines import timeout_error
from appliance.upstream.exchange import UpstreamAnswer

if TYPE_CHECKING:
    from appliance.upstream.websocket import WebSocket

Look = Place | Literal["unreachable", "unclear"]
Heard = Literal["ended", "quiet", "lost"]

POLL_S = 0.25  # without a socket: the look costs the server a millisecond
LISTEN_S = 5.0  # with one: a look for what it may have missed
CANCEL_POLL_S = 0.02  # without a socket: a slot is back 50 ms after the server is idle, the answers included
CANCEL_LISTEN_S = 0.05  # with one, which tells the end itself: a look costs a server that draws a millisecond
REINTERRUPT_S = 1.0
LOOKS_FOR_ABSENT = 2  # queue and history are two questions: a job may end between them
ABSENT_S = 0.01  # a job that was seen, or accepted, and is in neither: one more look
UNKNOWN_S = 1.0  # one that was not: the request's bytes may still be on their way to the queue


class Job:
    """One job as the server's queue sees it. `over`: the server works on it no more.

    `websocket`: open for as long as the job may run, its end included; None where there is none to be had.
    """

    def __init__(self, server: Server, prompt_id: str, websocket: "WebSocket | None") -> None:
        self.prompt_id = prompt_id
        self.over = False
        self._server = server
        self._websocket = websocket
        self._sent = False
        self._accepted = False

    async def submit(self, body: Mapping[str, Any]) -> UpstreamAnswer:
        """Send it. From its first byte on the answer is waited for even when the caller is cancelled.

        Whether the server has the job decides how it is ended; the answer comes in milliseconds, or within the bound.
        """
        call = self._server.call
        with trio.CancelScope() as hold:

            def mark_sent() -> None:
                self._sent = True
                hold.shield = True

            total_s = min(call.idle_timeout_s, call.cancel_timeout_s)
            answer = await self._server.submit(body, total_s=total_s, on_sent=mark_sent)
        self._accepted = answer.status == 200
        self.over = 400 <= answer.status < 500
        return answer

    def check_id(self, told: object) -> None:
        """Raises UpstreamFailed for a server that names jobs itself; its job is the one to be ended then."""
        if told == self.prompt_id:
            return
        if isinstance(told, str):
            self.prompt_id = told
        name = self._server.name
        raise UpstreamFailed(f"{name} takes no id for a job: use ComfyUI of September 2025 or later.", upstream=name)

    async def finish(self) -> dict[str, Any]:
        """Wait for the end, and give what the history says of it. A lost socket is replaced by looking.

        Raises UpstreamTimeout after the call's timeout_s, UpstreamFailed for a server that has died or lost the job.
        """
        call = self._server.call
        with trio.move_on_after(call.timeout_s):
            ended = await self._finish()
            self.over = True
            return ended
        raise timeout_error(self._server.name, "total", call.timeout_s)

    async def end(self) -> None:
        """Return once the server works on our job no more, within the call's cancel_timeout_s; at once if it is over."""
        if self.over or not self._sent:
            return
        with trio.move_on_after(self._server.call.cancel_timeout_s):
            await self._end()

    async def _finish(self) -> dict[str, Any]:
        listener = Listener(self.prompt_id)
        missed = 0
        while missed < LOOKS_FOR_ABSENT:
            heard = await self._wait(listener, LISTEN_S if self._websocket else POLL_S, self._show)
            place: Look = "unclear" if heard == "ended" else await self._patient_place()
            with suppress(UpstreamTimeout):
                ended = await self._server.ended(self.prompt_id)
                if ended is not None:
                    return ended
            missed = missed + 1 if place == "absent" else 0
        raise UpstreamFailed(
            f"{self._server.name} has lost the picture: it was taken off its queue, or the server was restarted.",
            upstream=self._server.name,
        )

    async def _wait(self, listener: Listener, within_s: float, show: Callable[[Preview], None]) -> Heard:
        """Wait for word of the end. A socket that is lost is not listened to again: time alone passes then."""
        with trio.move_on_after(within_s):
            while True:
                if self._websocket is None:
                    await trio.sleep_forever()
                try:
                    told = listener.hear(await self._websocket.receive())
                except UpstreamFailed:
                    self._websocket = None
                    return "lost"
                if isinstance(told, Preview):
                    show(told)
                elif told == "ended":
                    return "ended"
        return "quiet"

    def _show(self, preview: Preview) -> None:
        show_preview(self._server.call, preview)

    async def _patient_place(self) -> Look:
        """A server that is slow to say has not lost the job. Raises UpstreamFailed."""
        try:
            return await self._server.place_of(self.prompt_id)
        except UpstreamTimeout:
            return "unclear"

    async def _end(self) -> None:
        listener = Listener(self.prompt_id)
        patience_s = ABSENT_S if self._accepted else UNKNOWN_S
        absent_since, interrupted_at = math.inf, -math.inf
        while True:
            look = await self._look()
            if look == "unreachable" or (look == "absent" and await self._is_in_history()):
                return
            now = trio.current_time()
            absent_since = min(absent_since, now) if look == "absent" else math.inf
            if now - absent_since >= patience_s:
                return
            if look in ("pending", "running"):
                patience_s = ABSENT_S
            with suppress(UpstreamFailed, UpstreamTimeout):
                if look == "pending":
                    await self._server.delete(self.prompt_id)
                elif look == "running" and now - interrupted_at >= REINTERRUPT_S:
                    interrupted_at = now
                    await self._server.interrupt(self.prompt_id)
            if look in ("pending", "absent"):  # just deleted, or to be looked for once more
                pause_s = min(CANCEL_POLL_S, patience_s)
            else:
                pause_s = CANCEL_LISTEN_S if look == "running" and self._websocket else CANCEL_POLL_S
            await self._wait(listener, pause_s, _ignore)

    async def _look(self) -> Look:
        """Whatever goes wrong is an answer too."""
        connected = trio.Event()
        try:
            return await self._server.place_of(self.prompt_id, on_connected=connected.set)
        except UpstreamFailed:
            return "unclear" if connected.is_set() else "unreachable"
        except UpstreamTimeout:
            return "unclear"

    async def _is_in_history(self) -> bool:
        try:
            return await self._server.ended(self.prompt_id) is not None
        except (UpstreamFailed, UpstreamTimeout):
            return False


def _ignore(_preview: Preview) -> None:
    return


def show_preview(call: ImageCall, preview: Preview) -> None:
    """Hand a preview on; a broken one is not worth failing for."""
    if call.on_preview is None:
        return
    with suppress(UpstreamFailed):
        call.on_preview(image_from_bytes(preview.data, call), preview.progress)
