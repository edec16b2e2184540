"""Received bytes: however a stream is cut into reads, the same bytes are kept, and the answer read in them is the one
that was lived."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.admission.grace import Grace
from appliance.agents.answers import no_id, read_calls, read_completion, read_text
from appliance.agents.reading import read_transcript
from appliance.agents.step import INVALID_CALL, Finish, decide_next
from appliance.agents.transcript import Ended
from appliance.agents.verify import verify_run
from appliance.protocol.agents import without_volatile
from appliance.protocol.canonical import canonical_json
from appliance.protocol.chat_whole import WholeReader
from appliance.protocol.errors import UpstreamFailed
from tests.agents.support import ScriptedModel, call, make_head, run, said

BOM = b"\xef\xbb\xbf"
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "small"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def chunk(delta: Mapping[str, Any], finish: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({**HEAD, "choices": [choice], **fields}, ensure_ascii=False)


def streamed(*data: str, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + one.encode() + end + end for one in data)


# Streams as servers send them: any line end, comments, a mark at the start, an end of one kind or another.

deltas: st.SearchStrategy[Mapping[str, Any]] = st.sampled_from(
    [
        {"role": "assistant", "content": ""},
        {"content": "Grüße ☃ \U0001f600"},
        {"content": "\u2028 "},
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "noop", "arguments": '{"n": 1}'}}]},
        {"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "noop", "arguments": '{"n": '}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "2}"}}]},
        {"tool_calls": [{"function": {"name": "", "arguments": {"n": 3}}}]},
    ]
)
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
noise = st.sampled_from([b"", b": keep-alive\n\n", b": \xff\xfe\r\n\r\n", b"\n", b"event: x\nid: 1\n\n", b"{}\n\n"])
ends = st.sampled_from(
    [
        b"data: [DONE]\n\n",
        b"data: [DONE]\r\n\r\n",
        b"data: [DONE]\r\r",
        b"data: [DONE]\n\rx\n\n",
        b"data:[DONE]\n\ndata: no JSON\n\n: and more",
        b"data: [DONE]\n",
        b"data: [DONE]",
        b"data: [DO",
        b"",
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    pieces = [draw(st.sampled_from([b"", BOM]))]
    for delta in draw(st.lists(deltas, max_size=4)):
        pieces += [draw(noise), streamed(chunk(delta), end=draw(line_ends))]
    finish = draw(st.sampled_from([None, "stop", "tool_calls"]))
    if finish:
        pieces.append(streamed(chunk({}, finish, usage=USAGE), end=draw(line_ends)))
    return b"".join([*pieces, draw(noise), draw(ends)])


def lived(reads: Sequence[bytes]) -> tuple[bytes, Mapping[str, Any]] | None:
    """What a live call keeps and consumes of these reads; None where it fails."""
    reader = WholeReader("gpu", no_id)
    received = []
    try:
        for piece in reads:
            received.append(reader.feed(piece))
            if reader.done:
                break
        return b"".join(received), reader.finish()
    except UpstreamFailed:
        return None


@given(stream=streams(), data=st.data())
@example(stream=b"data: [DONE]\n\rx", data=None)
def test_the_same_bytes_are_kept_however_they_came_and_say_what_was_consumed(stream: bytes, data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6))) if data else list(range(len(stream)))
    reads = [stream[start:stop] for start, stop in pairwise([0, *cuts, len(stream)])]
    once, cut = lived([stream]), lived(reads)
    assert once == cut
    if once is None:
        assert read_completion(stream) == {}
        return
    received, completion = once
    assert stream.startswith(received)
    assert received == stream or b"[DONE]" in received
    assert read_completion(received) == completion
    assert json.loads(canonical_json(kept(received))).encode("utf-8", "surrogateescape") == received


def kept(received: bytes) -> str:
    """As an event holds it."""
    return received.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("stream", "received"),
    [
        (b"data: [DONE]\n\ndata: no JSON\n\n", b"data: [DONE]\n\n"),
        (b"data: [DONE]\r\n\r\n: bye\r\n\r\n", b"data: [DONE]\r\n\r\n"),
        (b"data: [DONE]\n\n\n", b"data: [DONE]\n\n"),
        (BOM + b": hi\n\ndata: [DONE]\n\n", BOM + b": hi\n\ndata: [DONE]\n\n"),
        (b"data: [DONE]\n", b"data: [DONE]\n"),
    ],
)
def test_what_is_kept_ends_with_the_event_done(stream: bytes, received: bytes) -> None:
    for reads in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        found = lived(reads)
        assert found is not None
        assert found[0] == received


def test_where_nothing_is_done_all_of_the_body_is_kept() -> None:
    stream = streamed(chunk({"content": "a"}), chunk({}, "stop")) + b": and a comment that was cut o"
    assert lived([stream]) == (stream, read_completion(stream))


def test_calls_without_ids_have_the_same_ones_each_time_they_are_read() -> None:
    entry = {"function": {"name": "noop", "arguments": "{}"}}
    stream = streamed(chunk({"tool_calls": [entry, {**entry, "index": 1}]}, "tool_calls"), "[DONE]")
    one, two = (read_calls(read_completion(stream), "3") for _ in range(2))
    assert one == two
    assert one[0].id != one[1].id


@pytest.mark.parametrize(
    "response",
    [
        b'{"choices":[{"message":{"content":"whole"}}]}',
        BOM + b' \r\n{"choices":[{"message":{"content":"whole"}}]}',
        b'{"a":"\\n\\ndata: [DONE]\\n\\n","choices":[{"message":{"content":"whole"}}]}',
        b"{not JSON, a field nobody knows\n\n" + streamed(chunk({"content": "whole"}), "[DONE]"),
    ],
)
def test_a_whole_answer_and_a_stream_are_told_apart_by_what_they_are(response: bytes) -> None:
    assert read_text(read_completion(response)) == "whole"


@pytest.mark.parametrize("data", ['{"error": {"message": "no"}}', "no JSON", chunk({"content": "a"})])
def test_a_stream_that_is_no_answer_says_nothing(data: str) -> None:
    """No live call ends with one: only a forged record can hold it."""
    assert read_completion(streamed(data)) == {}


async def test_a_run_on_streams_verifies_and_a_byte_of_its_answers_that_differs_shows() -> None:
    entry = {"index": 0, "function": {"name": "noop", "arguments": '{"n": 1}'}}
    acts = streamed(chunk({"tool_calls": [entry]}), chunk({}, "tool_calls", usage=USAGE), "[DONE]")
    answers = [streamed(chunk({"content": text}, "stop"), "[DONE]", end=b"\r\n") for text in ("plan", "done")]
    ended, events = await run(make_head(), ScriptedModel([answers[0], acts, answers[0], answers[1]]))
    assert (ended.ok, ended.output_text, events[2]["usage"]) == (True, "done", USAGE)
    assert [event["response"].encode() for event in events if "response" in event][1] == acts
    stored = json.loads(canonical_json(events))
    assert (await verify_run(stored, None, Grace())).identical
    stored[2]["response"] = stored[2]["response"].replace('\\"n\\": 1', '\\"n\\": 2')
    verdict = await verify_run(stored, None, Grace())
    assert verdict.divergence is not None
    assert (verdict.divergence["event"], verdict.divergence["what"]) == (3, "call")


async def test_a_call_that_is_none_is_still_one_when_the_run_is_read_again() -> None:
    entry = {"index": 0, "function": {"name": "noop", "arguments": "{no"}}
    acts = streamed(chunk({"tool_calls": [entry]}, "tool_calls"), "[DONE]")
    for response in (acts, said("", {"name": "noop", "arguments": "{no"})):
        _, events = await run(make_head(), ScriptedModel([said("plan"), response]))
        transcript = read_transcript(json.loads(canonical_json(events[:3])))
        assert decide_next(transcript.head, transcript.steps) == Finish(0, Ended(error=INVALID_CALL))


def test_an_answer_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many look at it: the runner, the next step, the event."""
    read: list[bytes] = []

    def noted(stream: bytes, *_: object) -> Mapping[str, Any]:
        read.append(stream)
        return {}

    monkeypatch.setattr("appliance.agents.answers.put_together", noted)
    answers: list[Any] = [streamed("[DONE]"), streamed("[DONE]", "[DONE]")]

    trio.run(run, make_head(), ScriptedModel(list(answers)))
    assert read == answers


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_of_a_stream_the_ids_and_times_of_each_event_are_volatile(end: bytes) -> None:
    def event(number: int, text: str) -> dict[str, str]:
        call = {"index": 0, "id": f"c{number}", "function": {"name": "noop"}}
        shared: dict[str, Any] = {"id": f"chatcmpl-{number}", "created": number}
        data = [chunk({"content": text}, **shared), chunk({"tool_calls": [call]}, **shared), "[DONE]"]
        return {"response": (b": hi" + end + end + streamed(*data, end=end)).decode()}

    assert without_volatile(event(1, "\u2028a")) == without_volatile(event(2, "\u2028a"))
    assert without_volatile(event(1, "a")) != without_volatile(event(1, "b"))
    assert without_volatile(event(1, "a")) != without_volatile({"response": event(1, "a")["response"] + "x"})


def test_what_is_no_json_in_a_stream_is_compared_as_it_is() -> None:
    deep = "[" * 100_000
    for data in (deep, "NaN", "{no"):
        assert without_volatile({"response": f"data: {data}\n\n"}) == {"response": f"data: {data}\n\n"}


async def test_a_run_on_calls_is_the_same_whole_or_streamed() -> None:
    """What a step consumes is the answer; how it was cut is only kept."""
    entry = {"index": 0, "id": "c0", "function": call(n=1)}
    acts = streamed(chunk({"content": "é"}), chunk({"tool_calls": [entry]}), chunk({}, "tool_calls"), "[DONE]")
    results = []
    for response in (acts, said("é", call(n=1))):
        _, events = await run(make_head(), ScriptedModel([said("p"), response, said("p"), said("done")]))
        results.append([without_volatile({**event, "response": "", "usage": None}) for event in events])
    assert results[0] == results[1]
