"""A1111 jobs: ending one that nobody waits for, without ever ending somebody else's.

The server has one queue lock, and an interrupt has no id: sent before the job starts it is lost, sent after the job
has ended it kills the next one. So: interrupt only while our own task id is seen active and is not about to end.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import trio

from appliance.backends.base import ImageCall
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamCall, login_headers
from appliance.upstream.failures import parse_json_object

Stage = Literal["active", "queued", "completed", "unknown", "unreachable", "untracked", "unclear"]

POLL_S = 0.1  # a step of a sampler takes about as long
LOOK_TIMEOUT_S = 2.0  # one look at the job; the server answers these beside its drawing
REINTERRUPT_S = 2.0  # longer than a step: an interrupt that worked has shown by then
ENDING_S = 0.5  # a job with less than this to go is left to end: the interrupt could arrive after it
LOOKS_FOR_UNKNOWN = 10  # one second: the request's bytes may still be on their way to the queue


JSON_HEADERS = {"Content-Type": "application/json"}


def _ignore() -> None:
    return


@dataclass(frozen=True, slots=True)
class _Look:
    """What the server says of our task. `ends_in_s`: its own estimate, None when it has none yet."""

    stage: Stage
    ends_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """Our job is active. `encoded`: a data URL, None where there is none newer than the one that is known."""

    id: int
    encoded: str | None
    progress: float | None


class Job:
    """One txt2img call as the server's queue sees it."""

    def __init__(self, call: ImageCall, upstream: UpstreamClient) -> None:
        self._call = call
        self._upstream = upstream
        self._sent = False
        self._interrupted_at: float | None = None
        self.over = False

    def url(self, path: str) -> str:
        return self._call.backend_class.base_url.rstrip("/") + path

    def mark_sent(self) -> None:
        self._sent = True

    def mark_over(self) -> None:
        self.over = True

    async def is_trackable(self) -> bool:
        """Ask for our own task before it exists. Servers without the route (`--nowebui`, stable-diffusion.cpp): no.

        One that is too busy to say counts as trackable. Raises UpstreamFailed for one that cannot be reached.
        """
        try:
            answer = await self._upstream.exchange(self._look_call())
        except UpstreamTimeout:
            return True
        try:
            return answer.status == 200 and "active" in parse_json_object(answer.body, upstream=self._name)
        except UpstreamFailed:
            return False

    async def look_at_preview(self, known_id: int) -> Preview | None:
        """The preview of our own task, if it is newer than this one; None while the task is not active."""
        try:
            answer = await self._upstream.exchange(self._look_call(preview_after=known_id))
            said = parse_json_object(answer.body, upstream=self._name)
        except (UpstreamFailed, UpstreamTimeout):
            return None
        if answer.status != 200 or not said.get("active"):
            return None
        encoded, shown, progress = said.get("live_preview"), said.get("id_live_preview"), said.get("progress")
        return Preview(
            id=shown if isinstance(shown, int) else known_id,
            encoded=encoded if isinstance(encoded, str) and shown != known_id else None,
            progress=float(progress) if isinstance(progress, int | float) else None,
        )

    async def end(self) -> None:
        """Return once the server works on our job no more, within the call's cancel_timeout_s; at once if it is over."""
        if self.over or not self._sent:
            return
        with trio.move_on_after(self._call.cancel_timeout_s):
            await self._end()

    async def _end(self) -> None:
        seen = False
        unknown = 0
        while unknown < LOOKS_FOR_UNKNOWN:
            asked = trio.current_time()
            look = await self._look()
            if look.stage in ("completed", "unreachable") or (look.stage == "unknown" and seen):
                return
            if look.stage == "untracked" and await self._server_is_idle():
                return
            if look.stage == "active" and await self._interrupt(look, asked) == "idle":
                return
            seen = seen or look.stage in ("active", "queued")
            unknown = unknown + 1 if look.stage == "unknown" else 0
            await trio.sleep(POLL_S)

    async def _look(self) -> _Look:
        """Ask for our task. Whatever goes wrong is an answer too."""
        connected = trio.Event()
        try:
            answer = await self._upstream.exchange(self._look_call(on_connected=connected.set))
            if answer.status != 200:
                return _Look("untracked" if answer.status == 404 else "unclear")
            return _read_look(parse_json_object(answer.body, upstream=self._name))
        except UpstreamFailed:
            return _Look("unclear" if connected.is_set() else "unreachable")
        except UpstreamTimeout:
            return _Look("unclear")

    async def _interrupt(self, look: _Look, asked: float) -> Literal["sent", "waiting", "idle"]:
        """Interrupt a job that was seen active at `asked`, if it is certain to be still there when this arrives."""
        now = trio.current_time()
        if look.ends_in_s is not None and look.ends_in_s - (now - asked) < ENDING_S:
            return "waiting"
        if self._interrupted_at is not None:
            if now - self._interrupted_at < REINTERRUPT_S:
                return "waiting"
            # A job that raised stays "active" in this server's books until the next one starts.
            if await self._server_is_idle():
                return "idle"
        self._interrupted_at = now
        with suppress(UpstreamFailed, UpstreamTimeout):
            await self._upstream.exchange(self._control_call("POST", "/sdapi/v1/interrupt"))
        return "sent"

    async def _server_is_idle(self) -> bool:
        """Say whether the server works on nothing at all; False where it cannot say."""
        try:
            answer = await self._upstream.exchange(
                self._control_call("GET", "/sdapi/v1/progress?skip_current_image=true")
            )
            if answer.status != 200:
                return False
            state = parse_json_object(answer.body, upstream=self._name).get("state")
        except (UpstreamFailed, UpstreamTimeout):
            return False
        return isinstance(state, dict) and state.get("job_count") == 0 and not state.get("job")

    @property
    def _name(self) -> str:
        return self._call.backend_class.name

    def _look_call(
        self, on_connected: Callable[[], None] = _ignore, *, preview_after: int | None = None
    ) -> UpstreamCall:
        question = {
            "id_task": task_id(self._call),
            "id_live_preview": -1 if preview_after is None else preview_after,
            "live_preview": preview_after is not None,
        }
        call = self._control_call("POST", "/internal/progress", json.dumps(question).encode())
        return replace(call, on_connected=on_connected)

    def _control_call(self, method: str, path: str, body: bytes = b"") -> UpstreamCall:
        return UpstreamCall(
            backend_class=self._name,
            method=method,
            url=self.url(path),
            headers={**(JSON_HEADERS if body else {}), **login_headers(self._call.backend_class)},
            body=body,
            first_byte_s=LOOK_TIMEOUT_S,
            idle_s=LOOK_TIMEOUT_S,
            total_s=LOOK_TIMEOUT_S,
        )


def task_id(call: ImageCall) -> str:
    """A1111's own ids look like `task(...)`."""
    return f"task({call.request_id})"


def _read_look(said: dict[str, Any]) -> _Look:
    if said.get("active"):
        eta = said.get("eta")
        return _Look("active", ends_in_s=float(eta) if isinstance(eta, int | float) else None)
    stage: Stage = "queued" if said.get("queued") else "completed" if said.get("completed") else "unknown"
    return _Look(stage)
