"""Streams of OpenAI-style servers: event streams as they are, whole answers of servers that do not stream made into one."""

from collections.abc import Mapping
from typing import Any

from appliance.backends.base import ByteSource, LanguageCall, WholeSource
from appliance.backends.openai_answers import parse_answer
from appliance.backends.openai_vectors import unusable, written
from appliance.protocol.sse import DONE, sse_event
from appliance.upstream.client import UpstreamStream
from appliance.upstream.exchange import MAX_JSON_BYTES

# How a line of an event stream can begin (WHATWG HTML 9.2.6), a byte order mark before it or not.
_EVENT_STARTS = (b"data", b"event", b"id", b"retry", b"error", b":", b"\n", b"\r", b"\xef\xbb\xbf")
_SNIFF_BYTES = 8


class Replayed:
    """A source whose first piece was already read."""

    def __init__(self, first: bytes, rest: ByteSource) -> None:
        self._first = first
        self._rest = rest

    async def receive(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._rest.receive()


async def as_events(stream: UpstreamStream, call: LanguageCall) -> ByteSource:
    """What came, as a stream of events. Raises UpstreamFailed for an answer that is neither events nor a whole one."""
    if stream.content_type.lower().startswith("text/event-stream"):
        return stream
    start = b""
    while len(start) < _SNIFF_BYTES and (piece := await stream.receive()):
        start += piece
    if start.startswith(_EVENT_STARTS):
        return Replayed(start, stream)
    body = start + await stream.read_all(MAX_JSON_BYTES)
    name = call.backend_class.name
    if call.kind == "responses":
        raise unusable(name, "a whole response where a stream was asked for")
    answer = parse_answer(body, call.kind, upstream=name, content_type=stream.content_type)
    return WholeSource(events_of(answer, call), body)


def events_of(answer: Mapping[str, Any], call: LanguageCall) -> bytes:
    """A whole answer as the stream that would have made it; its usage where that was asked for."""
    shared = {key: value for key, value in answer.items() if key not in ("choices", "usage")}
    chunks: list[dict[str, Any]] = [{**shared, "choices": answer["choices"]}]
    if call.kind == "chat":
        shared["object"] = "chat.completion.chunk"
        chunks = [
            {**shared, "choices": [_opening(choice) for choice in answer["choices"]]},
            {**shared, "choices": [_closing(choice) for choice in answer["choices"]]},
        ]
    options = call.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True and isinstance(answer.get("usage"), dict):
        chunks.append({**shared, "choices": [], "usage": answer["usage"]})
    return b"".join([sse_event(written(chunk)) for chunk in chunks]) + DONE


def _opening(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The whole message as one delta, its tool calls numbered as a stream numbers them."""
    delta = {"role": "assistant", **choice["message"]}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        delta["tool_calls"] = [
            {"index": index, **tool_call} for index, tool_call in enumerate(calls) if isinstance(tool_call, dict)
        ]
    return {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}


def _closing(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
