"""stable-diffusion.cpp's jobs: submitted, looked at until they have ended, and taken off the queue where they still wait.

Its `examples/server/routes_sdcpp.cpp` and `async_jobs.cpp`: one worker; a job that waits can be cancelled, one that is
drawn cannot (409), so its slot is held to its end. There is no list of jobs: one whose answer was lost cannot be found.
"""

from collections.abc import Callable
from typing import Any

import trio

from appliance.backends.base import ImageCall
from appliance.backends.decoding import answer_cap_bytes, unusable
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamClient
from appliance.upstream.deadlines import timeout_error
from appliance.upstream.exchange import UpstreamAnswer, UpstreamCall
from appliance.upstream.failures import failure_from_answer, parse_json_object, redact

API = "/sdcpp/v1"
ACCEPTED = 202
POLL_S = 0.05  # seen: a look costs the server a millisecond, beside its drawing
LOOK_TIMEOUT_S = 5.0  # every core draws: an answer may take its time
_GONE = (404, 410)  # restarted since, or ended ten minutes ago
_MAX_REASON_CHARS = 200


def _ignore() -> None:
    return


class Job:
    """One job as the server's queue sees it."""

    def __init__(self, call: ImageCall, upstream: UpstreamClient) -> None:
        self._call = call
        self._upstream = upstream
        self._id: str | None = None
        self._over = False

    async def submit(self, body: bytes) -> UpstreamAnswer:
        """Send it. From its first byte on the answer is waited for even when the caller is cancelled: it has the id.

        Raises UpstreamFailed, UpstreamTimeout.
        """
        with trio.CancelScope() as hold:

            def mark_sent() -> None:
                hold.shield = True

            total_s = min(self._call.idle_timeout_s, self._call.cancel_timeout_s)
            answer = await self._ask("POST", "/img_gen", body, total_s=total_s, on_connected=mark_sent)
            if answer.status == ACCEPTED:
                self._accept(answer)
        return answer

    async def finish(self) -> dict[str, Any]:
        """Wait for the end; what the server gives as the result.

        Raises UpstreamTimeout after the call's timeout_s, UpstreamFailed for a job that failed or was lost.
        """
        with trio.move_on_after(self._call.timeout_s):
            while True:
                said = await self._look()
                if said.get("status") not in ("queued", "generating"):
                    self._over = True
                    return self._result_of(said)
                await trio.sleep(POLL_S)
        raise timeout_error(self._name, "total", self._call.timeout_s)

    async def end(self) -> None:
        """Return once the server works on our job no more, within the call's cancel_timeout_s; at once if it is over."""
        if self._over or self._id is None:
            return
        with trio.move_on_after(self._call.cancel_timeout_s):
            while not await self._cancel():  # noqa: ASYNC110 - the server has no event
                await trio.sleep(POLL_S)

    def _accept(self, answer: UpstreamAnswer) -> None:
        found = parse_json_object(answer.body, upstream=self._name).get("id")
        if not isinstance(found, str) or not found.replace("_", "").isalnum() or not found.isascii():
            raise unusable(self._call, "a job without an id")
        self._id = found

    async def _look(self) -> dict[str, Any]:
        """What is said of the job. A server that is slow to say has not lost it."""
        try:
            answer = await self._ask("GET", f"/jobs/{self._id}")
        except UpstreamTimeout:
            return {"status": "generating"}
        if answer.status in _GONE:
            raise UpstreamFailed(f"{self._name} has lost the picture: it was restarted.", upstream=self._name)
        if answer.status != 200:
            raise failure_from_answer(answer, upstream=self._name)
        return parse_json_object(answer.body, upstream=self._name)

    async def _cancel(self) -> bool:
        """Say whether the job is over: taken off the queue by this, or ended by itself. 409: it is being drawn."""
        connected = trio.Event()
        try:
            answer = await self._ask("POST", f"/jobs/{self._id}/cancel", on_connected=connected.set)
        except UpstreamTimeout:
            return False
        except UpstreamFailed:
            return not connected.is_set()  # nobody listens there any more, so nothing draws there
        return answer.status == 200 or answer.status in _GONE

    def _result_of(self, said: dict[str, Any]) -> dict[str, Any]:
        result, error = said.get("result"), said.get("error")
        if said.get("status") == "completed" and isinstance(result, dict):
            return result
        if said.get("status") == "cancelled":
            words = f"{self._name} was told by somebody else to cancel this picture."
            raise UpstreamFailed(words, upstream=self._name)
        told = error.get("message") if isinstance(error, dict) else None
        reason = redact(told)[:_MAX_REASON_CHARS] if isinstance(told, str) else "it does not say why"
        raise UpstreamFailed(f"{self._name} failed to draw this: {reason}.", upstream=self._name)

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        total_s: float = LOOK_TIMEOUT_S,
        on_connected: Callable[[], None] = _ignore,
    ) -> UpstreamAnswer:
        return await self._upstream.exchange(
            UpstreamCall(
                backend_class=self._name,
                method=method,
                url=self._call.backend_class.base_url.rstrip("/").removesuffix("/v1") + API + path,
                headers={"Content-Type": "application/json"} if body else {},
                body=body,
                first_byte_s=total_s,
                idle_s=self._call.idle_timeout_s,
                total_s=max(total_s, self._call.idle_timeout_s),  # a look at the end brings the pictures
                max_body_bytes=answer_cap_bytes(self._call),
                on_connected=on_connected,
            )
        )

    @property
    def _name(self) -> str:
        return self._call.backend_class.name
