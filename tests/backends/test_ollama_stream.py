"""Ollama's lines as OpenAI's events: whatever way they are split, and whatever is wrong with them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.chat_shapes import Head
from appliance.backends.ollama_stream import (
    MAX_LINE_BYTES,
    ChatTranslator,
    EventStream,
    LineReader,
    LineTooLong,
    TextTranslator,
)
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.ids import is_id, new_id
from appliance.protocol.sse import DONE, SseReader, data_of
from tests.fakes.ollama import COUNTS, LAST, WORD, ndjson

HEAD = Head("chatcmpl-000000000000000000000000", 7, "m")
LINES = [
    ndjson({"message": {"role": "assistant", "content": "", "thinking": "Hm ☃"}, "done": False}),
    WORD,
    ndjson({"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"ä": 1}}}]}}),
    LAST,
]


def chat_stream(*, include_usage=False, ids=lambda prefix: f"{prefix}-1"):
    return EventStream(ChatTranslator(HEAD, ids, include_usage=include_usage, upstream="ollama"), upstream="ollama")


def chunks(data):
    events = [data_of(event) for event in SseReader().feed(data)]
    return [json.loads(event) for event in events if event != b"[DONE]"]


def deltas(data):
    return [chunk["choices"][0]["delta"] for chunk in chunks(data) if chunk["choices"]]


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_events_do_not_depend_on_how_lines_are_split(places, include_usage):
    data = b"".join(LINES)
    whole = chat_stream(include_usage=include_usage)
    split = chat_stream(include_usage=include_usage)
    assert b"".join(split.feed(piece) for piece in cut(data, places)) == whole.feed(data)
    assert whole.ended
    assert split.ended


@given(st.lists(st.binary(max_size=8), max_size=20), st.lists(st.integers(0, 200), max_size=10))
def test_lines_are_the_same_however_they_are_split(lines, places):
    data = b"\n".join(lines)
    reader = LineReader()
    found = [line for piece in cut(data, places) for line in reader.feed(piece)]
    *ended, rest = data.split(b"\n")
    assert found == [line for line in ended if line.strip()]
    assert reader.rest == rest


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.lists(st.integers(0, 300), max_size=10))
def test_overlong_line_is_refused_after_the_lines_before_it(sizes, places):
    reader = LineReader(max_line_bytes=20)
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    found, too_long = [], False
    for piece in [*cut(data, places), b""]:
        try:
            found += reader.feed(piece)
        except LineTooLong:
            too_long = True
            break
    fine = sizes[: next((index for index, size in enumerate(sizes) if size > 20), len(sizes))]
    assert found == [b"x" * size for size in fine if size]
    assert too_long == (len(fine) < len(sizes))


def test_role_comes_first_and_once_then_thinking_content_and_calls():
    said = chat_stream().feed(b"".join(LINES))
    call = {"index": 0, "id": "toolcall-1", "type": "function", "function": {"name": "f", "arguments": '{"ä":1}'}}
    assert deltas(said) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm ☃"},
        {"content": "Grüße ☃"},
        {"tool_calls": [call]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks(said)] == [None] * 4 + ["tool_calls"]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks(said)} == {(HEAD.id, 7, "m")}
    assert said.endswith(DONE)
    assert said.count(b"[DONE]") == 1


def test_usage_comes_only_when_it_was_asked_for_and_before_the_end():
    assert b"usage" not in chat_stream().feed(WORD + LAST)
    last = chunks(chat_stream(include_usage=True).feed(WORD + LAST))[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def test_calls_are_numbered_through_the_whole_stream_and_have_ids_of_ours():
    call = {"id": "call_x", "function": {"index": 0, "name": "f", "arguments": "{}"}}
    line = ndjson({"message": {"content": "", "tool_calls": [call, call]}, "done": False})
    found = [
        delta["tool_calls"][0] for delta in deltas(chat_stream(ids=new_id).feed(line + line)) if "tool_calls" in delta
    ]
    assert [call["index"] for call in found] == [0, 1, 2, 3]
    assert len({call["id"] for call in found}) == 4
    assert all(is_id("toolcall", call["id"]) for call in found)


@pytest.mark.parametrize(
    ("reason", "wanted"), [("stop", "stop"), ("length", "length"), ("load", "stop"), ("unload", "stop"), (None, "stop")]
)
def test_done_reason_becomes_finish_reason(reason, wanted):
    last = ndjson({"message": {"content": ""}, "done": True, "done_reason": reason})
    assert chunks(chat_stream().feed(last))[-1]["choices"][0]["finish_reason"] == wanted


def test_last_line_may_be_without_message_and_line_break():
    stream = chat_stream()
    stream.feed(WORD)
    assert stream.feed(b'{"done":true}') == b""
    assert stream.finish().endswith(DONE)
    assert stream.ended


def test_nothing_after_the_last_line_is_read():
    stream = chat_stream()
    assert stream.feed(LAST + b"rubbish\n" + LAST).count(b"[DONE]") == 1


def test_stream_without_its_last_line_is_a_failure_and_has_no_end():
    stream = chat_stream()
    assert b"[DONE]" not in stream.feed(WORD)
    with pytest.raises(UpstreamFailed, match="before the answer was complete"):
        stream.finish()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"error":"llama runner process has terminated"}\n', "llama runner process has terminated"),
        (b"<html>\n", "not JSON"),
        (b"[1]\n", "not an object"),
        (b'{"done":false}\n', "without a message"),
        (b'{"message":{"content":5}}\n', "content is no text"),
        (b'{"message":{"content":"","tool_calls":5}}\n', "no list"),
        (b'{"message":{"content":"","tool_calls":[{"function":{}}]}}\n', "without a name"),
        (b'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":NaN}}}]}}\n', "not JSON"),
        (b'{"message":{"content":"\xff"}}\n', "not JSON"),
        (b'{"message":{"content":"\\ud800"}}\n', "not JSON"),
        (b"[" * 5000 + b"\n", "not JSON"),
        (b"x" * (MAX_LINE_BYTES + 1), "a line of more than"),
    ],
)
def test_bad_line_fails_after_what_came_before_it(line, words):
    stream = chat_stream()
    said = stream.feed(WORD + line)
    assert deltas(said)[-1] == {"content": "Grüße ☃"}
    assert not stream.ended
    for _ in range(2):
        with pytest.raises(UpstreamFailed, match=words):
            stream.raise_failure() if stream._failure else stream.feed(b"")
    with pytest.raises(UpstreamFailed):
        chat_stream().feed(line)


def test_completion_stream_has_texts_and_one_end():
    translator = TextTranslator(HEAD, include_usage=True, upstream="ollama")
    stream = EventStream(translator, upstream="ollama")
    lines = [{"response": "Once"}, {"response": ""}, {"response": "", "done": True, "done_reason": "length", **COUNTS}]
    found = chunks(stream.feed(b"".join(map(ndjson, lines))))
    assert [choice["text"] for chunk in found for choice in chunk["choices"]] == ["Once", ""]
    assert found[1]["choices"][0]["finish_reason"] == "length"
    assert found[2]["usage"]["total_tokens"] == 18
    assert {chunk["object"] for chunk in found} == {"text_completion"}
