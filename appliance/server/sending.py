"""Sending: what every answer goes through on its way out: the headers that all of them have, and what is noted of them."""

from typing import Any

import trio

from appliance.server.connection_requests import DirectCall, Headers
from appliance.server.visit import Send, Visit

SMALL_ANSWER_BYTES = 65_536  # goes out in one write


class Sender:
    """Sends the answer of one visit: ASGI messages, from who has such, or an answer as it is.

    `call`: the listener's shorter way, if it has one.
    """

    def __init__(self, visit: Visit, send: Send, call: DirectCall | None) -> None:
        self._visit = visit
        self._send = send
        self._call = call
        self._left: int | None = None  # bytes of a declared Content-Length that are still to come

    async def __call__(self, message: Any) -> None:
        """Send an ASGI message."""
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            self._left = next((int(value) for key, value in headers if key.lower() == b"content-length"), None)
            self._begin(message["status"], headers)
            message["headers"] = headers
            await self._send(message)
            return
        size = len(message.get("body", b""))
        last = self._is_last(size, more=message.get("more_body", False))
        # A client may close as soon as it has the last byte, before our send returns: that is no disconnect.
        if last and size <= SMALL_ANSWER_BYTES:
            self._visit.answered = True
        self._visit.sending = True
        await self._send(message)
        self._note_sent(size)
        if last:
            self._visit.answered = True

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer and its length; `headers` are added to. A HEAD's goes without its body."""
        headers.append((b"content-length", b"%d" % len(body)))
        if self._visit.method == "HEAD":
            body = b""
        if self._call is None:
            await self({"type": "http.response.start", "status": status, "headers": headers})
            await self({"type": "http.response.body", "body": body, "more_body": False})
            return
        visit = self._visit
        self._begin(status, headers)
        visit.answered = len(body) <= SMALL_ANSWER_BYTES
        visit.sending = True
        await self._call.answer(status, headers, body)
        self._note_sent(len(body))
        visit.answered = True

    async def piece(self, body: bytes) -> None:
        """Send a piece of a body that is not the last."""
        if self._call is None or self._left is not None:
            await self({"type": "http.response.body", "body": body, "more_body": True})
            return
        self._visit.sending = True
        await self._call.send_piece(body)
        self._note_sent(len(body))

    def _begin(self, status: int, headers: Headers) -> None:
        visit = self._visit
        visit.status = status
        elapsed_ms = round((trio.current_time() - visit.started_at) * 1000)
        headers.append((b"x-request-id", visit.request_id.encode()))
        headers.append((b"openai-processing-ms", b"%d" % elapsed_ms))

    def _note_sent(self, size: int) -> None:
        visit = self._visit
        visit.sending = False
        visit.bytes_out += size
        if visit.first_byte_at is None:
            visit.first_byte_at = trio.current_time()

    def _is_last(self, size: int, *, more: bool) -> bool:
        if self._left is not None:
            self._left -= size
        return not more or self._left == 0
