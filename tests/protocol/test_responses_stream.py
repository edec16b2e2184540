"""The streamed response: every event is one that OpenAI's SDK knows, and together they say what the whole answer says."""

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from openai.types.responses import Response

from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.responses import from_chat
from appliance.protocol.responses_stream import ResponsesStream
from appliance.protocol.sse import DONE, SseReader, data_of
from tests.protocol.responses_samples import (
    CREATED_S,
    REQUEST,
    Event,
    call_piece,
    chunked,
    counting_ids,
    delta,
    open_stream,
    read_events,
    stream_of,
)


def types_of(sent: bytes) -> list[str]:
    return [event["type"].removeprefix("response.") for event in read_events(sent)]


def accumulate(events: list[Event]) -> list[dict[str, Any]]:
    """The output items that a client has that reads nothing but what is added and the deltas."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        if kind == "response.content_part.added":
            items[event["output_index"]]["content"].append(event["part"])
        if kind == "response.function_call_arguments.delta":
            items[event["output_index"]]["arguments"] += event["delta"]
        elif kind.endswith(".delta"):
            part = items[event["output_index"]]["content"][event["content_index"]]
            part["refusal" if kind == "response.refusal.delta" else "text"] += event["delta"]
    return items


def without_status(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "status": None} for item in items]


@given(chunked())
def test_any_chunking_of_an_answer_ends_in_the_same_response_as_the_whole_answer(
    case: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    answer, chunks = case
    whole = from_chat(answer, REQUEST, new_id=counting_ids(), created=CREATED_S)
    events = read_events(stream_of(*chunks))
    assert events[-1]["response"] == whole
    assert events[-1]["type"] == f"response.{whole['status']}"


@given(chunked())
def test_what_is_added_and_the_deltas_make_up_the_final_output(
    case: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    events = read_events(stream_of(*case[1]))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    final = events[-1]["response"]["output"]
    assert without_status(accumulate(events)) == without_status(final)
    assert sorted(done, key=lambda item: item["id"]) == sorted(final, key=lambda item: item["id"])
    assert all(item["status"] != "in_progress" for item in final)
    assert all(event["delta"] for event in events if event["type"].endswith(".delta"))
    said = [event["arguments"] for event in events if event["type"] == "response.function_call_arguments.done"]
    assert said == [item["arguments"] for item in final if item["type"] == "function_call"]
    kinds = [event["type"] for event in events]
    assert kinds.count("response.content_part.added") == kinds.count("response.content_part.done")


def test_a_text_is_streamed_in_the_order_of_openais_events() -> None:
    sent = stream_of(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"))
    assert types_of(sent) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_reasoning_is_done_before_the_text_and_the_text_before_the_calls() -> None:
    sent = stream_of(
        delta(reasoning_content="hm"),
        delta(content="a"),
        delta(tool_calls=[call_piece(0, id="c", name="weather", arguments="{}")]),
        delta("tool_calls"),
    )
    done = [event["item"]["type"] for event in read_events(sent) if event["type"] == "response.output_item.done"]
    assert done == ["reasoning", "message", "function_call"]
    kinds = types_of(sent)
    assert kinds.index("reasoning_text.done") < kinds.index("output_text.delta")
    assert kinds.index("output_text.done") < kinds.index("function_call_arguments.delta")


def test_an_event_carries_only_what_its_chunk_brought() -> None:
    stream = open_stream()
    stream.feed(delta(content="a"))
    assert [event["delta"] for event in read_more(stream.feed(delta(content="b")))] == ["b"]
    assert stream.feed(delta(content="")) == b""


def read_more(sent: bytes) -> list[Event]:
    return [json.loads(data_of(raw) or b"") for raw in SseReader().feed(sent)]


def test_an_answer_without_words_or_calls_is_an_empty_message() -> None:
    sent = stream_of(delta(role="assistant", content=""), delta("stop"))
    assert "output_text.delta" not in types_of(sent)
    final = read_events(sent)[-1]["response"]
    assert [item["content"][0]["text"] for item in final["output"]] == [""]


def test_a_cut_answer_is_incomplete_and_its_last_item_with_it() -> None:
    final = read_events(stream_of(delta(reasoning_content="hm"), delta(content="a"), delta("length")))[-1]
    assert final["type"] == "response.incomplete"
    assert final["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in final["response"]["output"]] == ["completed", "incomplete"]


def test_of_several_calls_only_the_last_one_is_cut() -> None:
    made = [call_piece(0, id="a", name="f", arguments="{}"), call_piece(1, id="b", name="f", arguments="{")]
    output = read_events(stream_of(delta("length", tool_calls=made)))[-1]["response"]["output"]
    assert [item["status"] for item in output] == ["completed", "incomplete"]


def test_a_stream_without_a_chunk_still_begins_and_ends() -> None:
    assert types_of(open_stream().finish())[:2] == ["created", "in_progress"]


@pytest.mark.parametrize(
    ("given", "chunks", "named"),
    [
        ("routed", [delta(content="a"), {**delta("stop"), "model": "other"}], "local-7b"),
        ("routed", [{**delta("stop"), "model": ""}], "routed"),
        ("", [{**delta("stop"), "model": None}], "local"),
    ],
)
def test_the_model_is_what_the_first_chunk_names(given: str, chunks: list[dict[str, Any]], named: str) -> None:
    stream = ResponsesStream(REQUEST, new_id=counting_ids(), created=CREATED_S, model=given)
    sent = b"".join(stream.feed(chunk) for chunk in chunks) + stream.finish()
    assert [event["response"]["model"] for event in read_events(sent) if "response" in event] == [named] * 3


def test_a_stream_knows_whether_the_chat_said_why_it_ended() -> None:
    stream = open_stream()
    stream.feed(delta(content="a"))
    stream.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": 5}]})
    stream.feed(delta(""))
    assert not stream.ended
    stream.feed(delta("stop"))
    stream.feed(delta(None))
    assert stream.ended


def test_a_failure_is_one_event_and_no_completion() -> None:
    stream = open_stream()
    sent = stream.feed(delta(content="Hel"))
    error = UpstreamFailed("gone", upstream="ollama")
    sent += stream.fail(error)
    last = read_events(sent)[-1]
    assert last["type"] == "error"
    assert (last["message"], last["error"]["code"], last["error"]["upstream"]) == ("gone", "upstream_error", "ollama")
    assert b"response.completed" not in sent


def test_text_after_calls_is_a_message_of_its_own() -> None:
    sent = stream_of(delta(content="a"), delta(tool_calls=[call_piece(0, id="c", name="f")]), delta(content="b"))
    output = read_events(sent)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None, "usage": None},
        {"choices": [None, 5]},
        {"choices": [{"delta": None, "finish_reason": 5}], "model": 5},
        {"choices": [{"index": 0, "delta": {"content": 5, "tool_calls": [None, {"function": "f"}], "refusal": []}}]},
        {"choices": [{"index": 1, "delta": {"content": "another choice"}}]},
    ],
)
def test_chunks_that_are_not_as_they_should_be_say_nothing(chunk: dict[str, Any]) -> None:
    output = read_events(stream_of(chunk, delta("stop", content="a")))[-1]["response"]["output"]
    assert [item["content"][0]["text"] for item in output] == ["a"]


def test_reasoning_under_two_names_is_said_once_and_parts_are_read_as_text() -> None:
    chunk = delta("stop", reasoning="hm", reasoning_content="hm", content=[{"type": "text", "text": "a"}])
    output = read_events(stream_of(chunk))[-1]["response"]["output"]
    assert [item["content"][0]["text"] for item in output] == ["hm", "a"]


def test_half_a_surrogate_pair_goes_on_as_it_came() -> None:
    sent = stream_of(delta(content="\ud83d"), delta("stop", content="\ude00"))
    assert b'"\\ud83d\\ude00"' in sent


def sdk_client(sent: bytes) -> openai.OpenAI:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=sent)

    transport = httpx.MockTransport(answer)
    return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=httpx.Client(transport=transport))


def test_openais_sdk_reads_the_stream_and_its_final_response() -> None:
    sent = stream_of(
        delta(reasoning_content="hm"),
        delta(content="Hel"),
        delta(content="lo ☃"),
        delta(tool_calls=[call_piece(0, id="a", name="weather", arguments="{")]),
        delta(tool_calls=[call_piece(0, arguments="}")]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}},
    )
    with sdk_client(sent + DONE) as client, client.responses.stream(model="local", input="hi") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == final.output_text == "Hello ☃"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens) == (3, 5)
    assert Response.model_validate(final.model_dump())


def test_openais_sdk_raises_on_a_failure_in_the_stream() -> None:
    stream = open_stream()
    sent = stream.feed(delta(content="Hel")) + stream.fail(UpstreamFailed("it broke off", upstream="ollama"))
    with sdk_client(sent) as client, pytest.raises(openai.APIError, match="it broke off"):
        list(client.responses.create(model="local", input="hi", stream=True))
