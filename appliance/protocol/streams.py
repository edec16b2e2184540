"""Streams: what a client is sent of a backend's event stream: whole events, one error at most, an end that is true."""

import json
import re
from typing import Protocol

from appliance.protocol.canonical import compact_json
from appliance.protocol.error_answers import error_body
from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.protocol.frozen import frozen
from appliance.protocol.sse import DONE, SseReader, SseTooLong, data_of, is_done, sse_event

# A choice's finish_reason, or the last event of a native responses stream: after it, a clean end is a true end.
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"')
_USAGE = b'"usage"'
_USAGE_VALUE = re.compile(rb'"usage"\s*:\s*\{')
_DECODER = json.JSONDecoder()

MAX_USAGE_BYTES = 4096
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')  # not null


@frozen
class Usage:
    """Tokens, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class StreamFilter(Protocol):
    """Sans-IO: bytes of an upstream's stream in, bytes for the client out. `ended`: nothing more may be sent."""

    ended: bool
    usage: Usage | None

    def feed(self, piece: bytes) -> bytes:
        """Whole events of this read, joined. Raises UpstreamFailed for an error that the upstream sends as an event."""
        ...

    def finish(self) -> bytes:
        """The backend ended its stream properly. Raises UpstreamFailed if what it sent has no end."""
        ...

    def fail(self, error: GatewayError) -> bytes:
        """The one error event; nothing is invented after it."""
        ...


class PassThrough:
    """Events go on as they came; only `[DONE]` is held back, to be sent exactly once."""

    def __init__(self, upstream: str) -> None:
        self.ended = False
        self.usage: Usage | None = None
        self._upstream = upstream
        self._reader = SseReader()
        self._finished = False

    def feed(self, piece: bytes) -> bytes:
        return b"".join(event for event in read_events(self._reader, piece, self._upstream) if self._passes(event))

    def _passes(self, event: bytes) -> bool:
        if self.ended:
            return False
        if is_done(event):
            self._finished = self.ended = True
            return False
        if _FINISH.search(event):
            self._finished = True
        if _USAGE in event:
            self.usage = usage_in(event) or self.usage
        data = data_of(event)
        if data is not None and _ERROR.match(data):
            raise upstream_error_event(data, self._upstream)
        return True

    def finish(self) -> bytes:
        if not self._finished:
            raise ended_early(self._upstream)
        self.ended = True
        return DONE

    def fail(self, error: GatewayError) -> bytes:
        self.ended = True
        return error_event(error)


def read_events(reader: SseReader, piece: bytes, upstream: str) -> list[bytes]:
    """The whole events that this read completes. Raises UpstreamFailed for one that is too long."""
    try:
        return reader.feed(piece)
    except SseTooLong as problem:
        words = f"{upstream} sent an event of more than {problem.max_event_bytes} bytes."
        raise UpstreamFailed(words, upstream=upstream) from None


def error_event(error: GatewayError) -> bytes:
    """Contract 1, SSE: `data: {"error":{...}}`."""
    return sse_event(compact_json(error_body(error)))


def ended_early(upstream: str) -> UpstreamFailed:
    return UpstreamFailed(f"{upstream} ended its stream before the answer was complete.", upstream=upstream)


def upstream_error_event(data: bytes, upstream: str) -> UpstreamFailed:
    """An error that came as an event: its words, bounded, in our shape."""
    try:
        error = json.loads(data)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        error = None
    words = error.get("message") if isinstance(error, dict) else error
    said = f": {words[:500]}" if isinstance(words, str) and words else ""
    return UpstreamFailed(f"{upstream} reported an error in the middle of its stream{said}", upstream=upstream)


def usage_of(answer: object) -> Usage | None:
    """The usage of a whole answer or a chunk: chat's, completions' and embeddings' names, or responses'."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        response = answer.get("response") if isinstance(answer, dict) else None
        return usage_of(response) if isinstance(response, dict) else None
    return Usage(
        _count(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _count(usage.get("completion_tokens", usage.get("output_tokens"))),
    )


def usage_in(body: bytes) -> Usage | None:
    """The usage in a JSON text, read where it stands: vectors are not parsed for it. Quotes within strings are
    escaped, so the name with its own quotes is a name."""
    at = body.rfind(_USAGE)
    match = _USAGE_VALUE.match(body, at) if at >= 0 else None
    if match is None:
        return None
    try:
        usage, _ = _DECODER.raw_decode(body[match.end() - 1 : match.end() + MAX_USAGE_BYTES].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return usage_of({"usage": usage})


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
