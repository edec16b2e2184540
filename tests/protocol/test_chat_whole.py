"""Chat whole: however an answer is cut into chunks and reads, what is put together is the answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.chat_whole import WholeReader
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.sse import DONE, PING, sse_event

HEAD = {"id": "chatcmpl-1", "created": 7, "model": "small"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def no_id(prefix: str) -> str:
    return f"{prefix}-made"


def chunk(delta: Any, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event({**HEAD, "object": "chat.completion.chunk", "choices": [choice], **fields})


def event(value: object) -> bytes:
    return sse_event(json.dumps(value))


def whole(*pieces: bytes) -> Any:
    reader = WholeReader("gpu", no_id)
    for piece in pieces:
        reader.feed(piece)
    return reader.finish()


def message(*pieces: bytes) -> Any:
    return whole(*pieces, chunk({}, "stop"), DONE)["choices"][0]["message"]


# An answer, and ways to cut it: each text into pieces, the pieces into events, the events into reads.

texts = st.text(max_size=12)
calls = st.builds(
    lambda number, name, arguments: {"id": f"c{number}", "name": name, "arguments": json.dumps(arguments)},
    st.integers(0, 10_000),
    st.sampled_from(["noop", "é"]),
    st.dictionaries(texts, st.integers() | texts, max_size=2),
)
answers = st.fixed_dictionaries(
    {"content": texts, "calls": st.lists(calls, max_size=3, unique_by=lambda call: call["id"])},
    optional={"reasoning_content": texts.filter(bool), "refusal": texts.filter(bool)},
)


def cut(text: str, at: Callable[[int], int]) -> list[str]:
    place = at(len(text))
    return [text[:place], text[place:]]


@given(answer=answers, usage=st.booleans(), ends=st.sampled_from(["stop", "length", "tool_calls"]), data=st.data())
def test_an_answer_that_was_streamed_is_the_answer(answer: Any, usage: bool, ends: str, data: st.DataObject) -> None:
    def at(length: int) -> int:
        return data.draw(st.integers(0, length))

    asked = answer.pop("calls")
    events = [chunk({"role": "assistant", "content": ""})]
    for name, text in answer.items():
        events += [chunk({name: piece}) for piece in cut(text, at)]
    for number, call in enumerate(asked):
        first, second = cut(call["arguments"], at)
        function = {"name": call["name"], "arguments": first}
        events.append(chunk({"tool_calls": [{"index": number, "id": call["id"], "function": function}]}))
        events.append(chunk({"tool_calls": [{"index": number, "function": {"arguments": second}}]}))
    events.append(chunk({}, ends))
    if usage:
        events.append(event({**HEAD, "choices": [], "usage": USAGE}))
    stream = b"".join([*events, PING, DONE])
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    reads = [stream[start:stop] for start, stop in zip([0, *places], [*places, len(stream)], strict=True)]

    functions = [{"name": call["name"], "arguments": call["arguments"]} for call in asked]
    tool_calls = [
        {"id": call["id"], "type": "function", "function": function}
        for call, function in zip(asked, functions, strict=True)
    ]
    content = answer.pop("content") or (None if asked else "")
    said = {"role": "assistant", "content": content, **answer, **({"tool_calls": tool_calls} if asked else {})}
    assert whole(*reads) == {
        **HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": ends}],
        **({"usage": USAGE} if usage else {}),
    }


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        chunk({"content": "Hel"}),
        chunk({"content": "Hel"}) + chunk({}, "stop")[:-1],
        PING,
    ],
)
def test_a_stream_that_was_left_before_its_end_is_no_answer(stream: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="gpu ended its stream before the answer was complete"):
        whole(stream)


@pytest.mark.parametrize("end", [DONE, chunk({}, "stop"), chunk({}, "stop") + DONE])
def test_done_is_an_end_and_so_is_a_reason_to_finish(end: bytes) -> None:
    assert whole(chunk({"content": "Hello"}), end)["choices"][0]["message"]["content"] == "Hello"


def test_nothing_is_read_after_done() -> None:
    assert whole(chunk({"content": "a"}) + DONE + b"data: no JSON\n\n", chunk({"content": "b"}))["choices"][0][
        "message"
    ] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("data", ["{no", "[]", "5", '"x"', "[" * 100_000, "\ufffd"])
def test_an_event_that_is_no_chunk_is_the_upstreams_failure(data: str) -> None:
    with pytest.raises(UpstreamFailed, match="gpu sent an event that is no JSON object"):
        whole(sse_event(data))


def test_an_error_that_comes_as_an_event_is_told() -> None:
    with pytest.raises(UpstreamFailed, match=r"gpu reported an error .*: the card fell out"):
        whole(chunk({"content": "a"}), event({"error": {"message": "the card fell out"}}))


def test_numbers_that_json_has_not_become_null() -> None:
    stream = b'data: {"timings": {"a": NaN, "b": [1e999, -Infinity, 2.5]}, "choices": []}\n\n'
    assert whole(stream, DONE)["timings"] == {"a": None, "b": [None, None, 2.5]}


def test_the_first_chunk_names_the_answer_and_the_last_word_counts_for_all_else() -> None:
    early = chunk({"content": "a"}, usage={"completion_tokens": 1}, system_fingerprint="f")
    said = whole(early, event({"id": "other", "usage": None, "choices": []}), chunk({}, "stop", usage=USAGE), DONE)
    assert (said["id"], said["usage"], said["system_fingerprint"]) == ("chatcmpl-1", USAGE, "f")


def test_halves_of_a_character_that_came_in_two_chunks_are_one() -> None:
    said = message(chunk({"content": "\ud83d"}), chunk({"content": "\ude00"}))
    assert said["content"] == "\U0001f600"


def test_text_in_parts_is_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, "x", {"text": "b"}]
    assert message(chunk({"content": parts}))["content"] == "ab"


def test_log_probabilities_are_of_all_tokens() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text}]}}

    said = whole(event({"choices": [token("a")]}), event({"choices": [token("b")]}), DONE)
    assert said["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


def test_calls_without_ids_get_some_and_arguments_may_be_an_object() -> None:
    entry = {"function": {"name": "noop", "arguments": {"a": 1}}}
    assert message(chunk({"tool_calls": [entry, "x"]}))["tool_calls"] == [
        {"id": "toolcall-made", "type": "function", "function": {"name": "noop", "arguments": '{"a":1}'}}
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "tool_calls", "function", "content", "error", "usage", "logprobs"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values | st.fixed_dictionaries({"choices": st.lists(json_values, max_size=2)}), max_size=4))
def test_whatever_comes_is_an_answer_or_the_upstreams_failure(values: list[Any]) -> None:
    try:
        said = whole(*[event(value) for value in values], DONE)
    except UpstreamFailed:
        return
    assert isinstance(said["choices"][0]["message"], dict)
