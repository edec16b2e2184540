"""Chats for the tests of responses, whole and in every way in which a server may cut them, and a reader of the events."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from appliance.protocol.ids import NewId
from appliance.protocol.responses_stream import ResponsesStream
from appliance.protocol.sse import SseReader, data_of

Event = dict[str, Any]

CREATED_S = 1_700_000_000

REQUEST: dict[str, Any] = {
    "model": "local",
    "input": "What is the weather?",
    "instructions": "Be brief.",
    "temperature": 0.5,
    "max_output_tokens": 100,
    "metadata": {"job": "7"},
    "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}],
    "reasoning": {"effort": "low"},
}


def counting_ids() -> NewId:
    numbers = itertools.count()
    return lambda prefix: f"{prefix}-{next(numbers):024x}"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
calls = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    st.sampled_from(["weather", "clock"]),
    texts,
)


def _answer(
    reasoning: str, content: str | None, refusal: str, made: list[dict[str, Any]], finish_reason: str
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if refusal:
        message["refusal"] = refusal
    if made:
        message["tool_calls"] = [{**call, "id": f"call_{index}"} for index, call in enumerate(made)]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "local-7b",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 5,
            "total_tokens": 8,
            "completion_tokens_details": {"reasoning_tokens": 2},
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    }


answers = st.builds(
    _answer,
    texts,
    st.none() | texts,
    st.sampled_from(["", "", "I will not."]),
    st.lists(calls, max_size=3),
    st.sampled_from(["stop", "tool_calls", "length", "content_filter"]),
)


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "model": "local-7b",
        "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}],
    }


def call_piece(index: int, **fields: Any) -> dict[str, Any]:
    """A piece of a tool call: `id`, and `name` and `arguments` of its function."""
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    return {"index": index, **fields, "function": function}


@st.composite
def chunked(draw: Callable[..., Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An answer, and the same answer as a stream: texts cut anywhere, the pieces of several calls alternating."""
    answer = draw(answers)
    choice = answer["choices"][0]
    message = choice["message"]
    chunks = [delta(role="assistant", content="")]
    for name in ("reasoning_content", "content", "refusal"):
        chunks += [delta(**{name: piece}) for piece in draw(_cuts(message.get(name) or ""))]
    chunks += [delta(tool_calls=[piece]) for piece in draw(_call_pieces(message.get("tool_calls", [])))]
    chunks.append(delta(choice["finish_reason"]))
    chunks.append({"choices": [], "model": "local-7b", "usage": answer["usage"]})
    return answer, chunks


@st.composite
def _cuts(draw: Callable[..., Any], text: str) -> list[str]:
    at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in itertools.pairwise([0, *at, len(text)])]


@st.composite
def _call_pieces(draw: Callable[..., Any], made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """First pieces in the calls' order, as servers send them; the others in any order between the calls."""
    queues: list[Iterator[dict[str, Any]]] = []
    pieces: list[dict[str, Any]] = []
    for index, call in enumerate(made):
        function = call["function"]
        pieces.append(call_piece(index, id=call["id"], name=function["name"], arguments=""))
        queues.append(iter([call_piece(index, arguments=cut) for cut in draw(_cuts(function["arguments"]))]))
    while queues:
        queue = queues[draw(st.integers(0, len(queues) - 1))]
        piece = next(queue, None)
        if piece is None:
            queues.remove(queue)
            continue
        pieces.append(piece)
    return pieces


known_events: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def open_stream() -> ResponsesStream:
    return ResponsesStream(REQUEST, new_id=counting_ids(), created=CREATED_S)


def stream_of(*chunks: dict[str, Any]) -> bytes:
    stream = open_stream()
    return b"".join(stream.feed(chunk) for chunk in chunks) + stream.finish()


def read_events(sent: bytes) -> list[Event]:
    """Every event, checked: known to the SDK, its `event:` line its type, numbered from 0 without a gap."""
    reader = SseReader()
    events = []
    for raw in reader.feed(sent):
        event = json.loads(data_of(raw) or b"")
        assert raw.startswith(f"event: {event['type']}\n".encode())
        known = known_events.validate_python(event)
        assert known.type == event["type"]
        events.append(event)
    assert reader.rest == b""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events
