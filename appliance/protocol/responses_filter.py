"""The filter of a translated responses stream: chat's events in, the typed events of /v1/responses out."""

import json
from collections.abc import Mapping

from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.protocol.responses_stream import ResponsesStream
from appliance.protocol.sse import DONE, SseReader, data_of, is_done
from appliance.protocol.streams import Usage, ended_early, read_events, upstream_error_event, usage_of


class TranslatedResponses:
    """A StreamFilter around a ResponsesStream."""

    def __init__(self, stream: ResponsesStream, upstream: str) -> None:
        self.ended = False
        self.usage: Usage | None = None
        self._stream = stream
        self._upstream = upstream
        self._reader = SseReader()

    def feed(self, piece: bytes) -> bytes:
        return b"".join(self._translate(event) for event in read_events(self._reader, piece, self._upstream))

    def _translate(self, event: bytes) -> bytes:
        data = data_of(event)
        if data is None or self.ended:
            return b""
        if is_done(event):
            self.ended = True
            return b""
        chunk = self._chunk(data)
        if chunk.get("error"):
            raise upstream_error_event(data, self._upstream)
        self.usage = usage_of(chunk) or self.usage
        return self._stream.feed(chunk)

    def finish(self) -> bytes:
        if not self._stream.ended and not self.ended:  # `[DONE]` is an end too
            raise ended_early(self._upstream)
        self.ended = True
        return self._stream.finish() + DONE

    def fail(self, error: GatewayError) -> bytes:
        self.ended = True
        return self._stream.fail(error)

    def _chunk(self, data: bytes) -> Mapping[str, object]:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            raise UpstreamFailed(f"{self._upstream} sent an event that is no JSON object.", upstream=self._upstream)
        return chunk
