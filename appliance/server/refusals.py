"""Refusals: what the listener turns away by itself, in the shape of every other error, with its journal line."""

import json
import time
from collections.abc import Callable

from appliance.components import Components
from appliance.protocol.errors import ErrorType
from appliance.server.listener_limits import Refusal
from appliance.server.routes import REFUSED
from appliance.server.visit import SCOPE_KEY, Visit

_REASONS = {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_RETRY_AFTER_S = 1  # a connection frees up as soon as anybody is done


def make_refuser(components: Components) -> Callable[[Refusal], bytes]:
    """Make the function that the listener calls for each refusal: it counts, writes the journal line, renders."""

    def refuse(refusal: Refusal) -> bytes:
        visit = refusal.running.get(SCOPE_KEY) if refusal.running is not None else None
        if isinstance(visit, Visit):  # its own line will say so
            visit.status, visit.error_code, visit.answered = refusal.status, refusal.code, True
            return render_refusal(refusal, visit.request_id)
        request_id = components.new_id("req")
        components.metrics.note_request(REFUSED, refusal.status, 0)
        components.metrics.note_refusal(refusal.code)
        if components.journal is not None:
            components.journal.record_nowait(_journal_line(refusal, request_id))
        return render_refusal(refusal, request_id)

    return refuse


def _journal_line(refusal: Refusal, request_id: str) -> dict[str, object]:
    return {
        "ts": round(time.time(), 3),
        "request_id": request_id,
        "route": REFUSED,
        "status": refusal.status,
        "outcome": "completed",
        "code": refusal.code,
        "peer": refusal.peer,
    }


def render_refusal(refusal: Refusal, request_id: str) -> bytes:
    """The complete HTTP/1.1 answer."""
    error = {
        "message": refusal.message,
        "type": _type(refusal.status),
        "param": None,
        "code": refusal.code,
        "source": "gateway",
    }
    body = json.dumps({"error": error}, separators=(",", ":")).encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {_REASONS.get(refusal.status, 'Refused')}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    ]
    if refusal.status == 503:
        lines += [f"retry-after: {_RETRY_AFTER_S}", f"retry-after-ms: {_RETRY_AFTER_S * 1000}"]
    if refusal.status == 405:
        lines.append("allow: GET, HEAD, POST")  # RFC 9110, 15.5.6 wants it; which path it is was not looked at
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _type(status: int) -> ErrorType:
    if status == 503:
        return "unavailable_error"
    return "server_error" if status == 500 else "invalid_request_error"
